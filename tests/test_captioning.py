"""The loop that every captioner shares: what is written, what is retried, what a kill leaves."""

import csv
import random
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from aras.captions.loop import MOST_FAILURES_IN_A_ROW, CaptionError, beside, caption_all, join_shards, names_done
from aras.captions.prompts import TEXT, Prompts
from aras.captions.work import Work
from aras.errors import UserError

PROMPTS = Prompts(TEXT)


class Killed(BaseException):
    """What ends a process in the middle."""


def work_of(tmp_path, count=10):
    names = np.array([f"{i:06d}.png" for i in range(count)])
    return Work(tmp_path / "t.csv", names, percentages=np.tile([100.0, 0, 0, 0, 0, 0, 0], (count, 1)))


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def by_threes(items, prompts):
    """Answer in groups of three, the last of a group first."""
    items = iter(items)
    while group := list(islice(items, 3)):
        yield {item.name: f"A forest, {item.name}, seen from {item.name[:-4]}" for item in reversed(group)}


def test_every_item_is_captioned_once_in_the_order_of_names(tmp_path):
    work = work_of(tmp_path)
    seen = []
    assert caption_all(work, by_threes, PROMPTS, seen.append) == 0
    assert [row[0] for row in rows(work.output)] == ["filename", *work.names.tolist()]
    assert seen == [3, 3, 3, 1]
    before = work.output.read_bytes()

    def never(items, prompts):
        assert list(items) == []
        return iter(())

    assert caption_all(work, never, PROMPTS) == 0
    assert work.output.read_bytes() == before


def test_killed_anywhere_it_ends_with_the_same_bytes(tmp_path):
    (tmp_path / "clean").mkdir()
    (tmp_path / "killed").mkdir()
    clean, killed = work_of(tmp_path / "clean", 40), work_of(tmp_path / "killed", 40)
    caption_all(clean, by_threes, PROMPTS)
    rng = random.Random(5)

    def cut_short(items, prompts):
        for group in by_threes(items, prompts):
            yield group
            if rng.random() < 0.5:
                with killed.output.open("ab") as file:  # as a write that was under way
                    file.write(b'000039.png,"A for'[: rng.randrange(18)])
                raise Killed

    for _ in range(100):
        try:
            caption_all(killed, cut_short, PROMPTS)
            break
        except Killed:
            continue
    assert killed.output.read_bytes() == clean.output.read_bytes()


def test_failures_are_listed_with_their_reasons_and_retried(tmp_path):
    work = work_of(tmp_path, 6)

    def half(items, prompts):
        for place, item in enumerate(items):
            yield {item.name: "A lake" if place % 2 else CaptionError("it\nbroke")}

    assert caption_all(work, half, PROMPTS) == 3
    failures = beside(work.output, "failures.csv")
    assert rows(failures) == [["filename", "reason"], *([name, "it broke"] for name in work.names.tolist()[::2])]
    assert len(rows(work.output)) == 1 + 3
    assert caption_all(work, half, PROMPTS) == 2
    assert len(rows(failures)) == 1 + 2
    assert caption_all(work, by_threes, PROMPTS) == 0
    assert not failures.exists()
    assert len(rows(work.output)) == 1 + 6


def test_an_empty_answer_and_one_left_out_are_failures(tmp_path):
    work = work_of(tmp_path, 3)

    def careless(items, prompts):
        first, second, _ = list(items)
        yield {first.name: "  ", second.name: "ERROR: 500"}

    assert caption_all(work, careless, PROMPTS) == 3
    reasons = [reason for _, reason in rows(beside(work.output, "failures.csv"))[1:]]
    assert reasons == ["no caption: ''", "no caption: 'ERROR: 500'", "the captioner left it out"]
    assert rows(work.output) == [["filename", "caption"]]


def test_when_everything_fails_it_stops(tmp_path):
    def broken(items, prompts):
        for item in items:
            yield {item.name: CaptionError("no server")}

    with pytest.raises(UserError, match=r"no server.*failures\.csv"):
        caption_all(work_of(tmp_path, MOST_FAILURES_IN_A_ROW + 9), broken, PROMPTS)
    assert len(rows(tmp_path / "t.csv.failures.csv")) == 1 + MOST_FAILURES_IN_A_ROW


def test_shards_share_the_work_and_join(tmp_path):
    work = work_of(tmp_path, 10)
    caption_all(work.first(2), by_threes, PROMPTS)
    for i in (1, 2, 3):
        part = work.shard((i, 3))
        caption_all(part, by_threes, PROMPTS)
        assert part.output != work.output
    assert sum(len(rows(work.shard((i, 3)).output)) - 1 for i in (1, 2, 3)) == 8
    other = work.shard((1, 2))  # cut up otherwise: everything is done already
    assert names_done(other) == set(work.names.tolist())
    assert join_shards(work, {}, frozenset()) == 3
    caption_all(work, by_threes, PROMPTS)
    assert [row[0] for row in rows(work.output)[1:]] == work.names.tolist()
    assert not list(tmp_path.glob("t_shard*"))


def test_joining_killed_between_any_two_files_leaves_nothing_behind(tmp_path, monkeypatch):
    unlink = Path.unlink
    for kept in range(4):
        folder = tmp_path / str(kept)
        folder.mkdir()
        work = work_of(folder, 4)
        for i in (1, 2):
            part = work.shard((i, 2))
            caption_all(part, by_threes, PROMPTS)
            for what in ("run.json", "failures.csv"):
                beside(part.output, what).write_text('{"options": {}}')
        left = [kept]

        def dying(self, missing_ok=False, left=left):
            if not left[0]:
                raise Killed
            left[0] -= 1
            unlink(self, missing_ok)

        monkeypatch.setattr(Path, "unlink", dying)
        with pytest.raises(Killed):
            join_shards(work, {}, frozenset())
        monkeypatch.setattr(Path, "unlink", unlink)
        assert join_shards(work, {}, frozenset()) == 2 - kept // 3
        assert [path.name for path in folder.glob("[!.]*")] == ["t.csv"]
        assert len(rows(work.output)) == 1 + 4


def test_captions_without_numbers_are_asked_for_twice_and_then_fail(tmp_path):
    asked = []

    def fond_of_numbers(items, prompts):
        for item in items:
            asked.append((item.name, prompts.stern))
            number = {"000000.png": "", "000001.png": "" if prompts.stern else " 40"}.get(item.name, " 7 %")
            yield {item.name: f"Forest{number}"}

    work = work_of(tmp_path, 3)
    assert caption_all(work, fond_of_numbers, Prompts(TEXT, numbers=False)) == 1
    assert rows(work.output)[1:] == [["000000.png", "Forest"], ["000001.png", "Forest"]]
    assert rows(beside(work.output, "failures.csv"))[1] == [
        "000002.png",
        "has numbers, also when asked again: Forest 7 %",
    ]
    assert sorted(asked) == [
        ("000000.png", False),
        ("000001.png", False),
        ("000001.png", True),
        ("000002.png", False),
        ("000002.png", True),
    ]
