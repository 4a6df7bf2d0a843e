"""The processes of a job: who they are, how they wait, and that labels do not depend on how many there are."""

import os
import threading

import numpy as np
import pytest
from tiny_dataset import make_dataset
from tiny_model import ENCODER

from aras import ranks
from aras.errors import UserError
from aras.files import sole_writer
from aras.labelling.images import Labeller, Share, label_share
from aras.labelling.outputs import begin_folder, end_folder, names_done, outputs_of, stamps_of
from aras.legend import read_mask
from aras.pairs import SUFFIX
from aras.ranks import (
    Rank,
    check_alone,
    rank_of_process,
    start_others,
    tell_end,
    wait_for_others,
    wait_for_start,
)
from aras.training import share_cores

share_cores()


@pytest.fixture
def torchrun(monkeypatch):
    """Set what torchrun would put into the environment."""

    def set_environment(number, count, port=1234):
        told = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        for name, value in (told | {"MASTER_ADDR": "here", "MASTER_PORT": port}).items():
            monkeypatch.setenv(name, str(value))

    return set_environment


def test_a_process_learns_which_it_is(torchrun):
    assert rank_of_process() == Rank()
    torchrun(0, 1)
    assert rank_of_process() == Rank()
    torchrun(2, 4)
    rank = rank_of_process()
    assert (rank.number, rank.count, rank.local, rank.leads, rank.name) == (2, 4, 2, False, "rank2")
    torchrun(0, 4)
    assert rank_of_process().job == rank.job
    torchrun(0, 4, port=4321)
    assert rank_of_process().job != rank.job


def test_half_of_an_environment_is_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match="WORLD_SIZE is 2 in the environment, but RANK is not there; start by torchrun"):
        rank_of_process()


def test_the_others_wait_for_the_first_of_their_own_job(tmp_path):
    first, second = Rank(0, 2, 0, "this job"), Rank(1, 2, 1, "this job")
    start_others(tmp_path, Rank(0, 2, 0, "an earlier job"))
    waiting = threading.Thread(target=wait_for_start, args=(tmp_path, second))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    start_others(tmp_path, first)
    waiting.join(10)
    assert not waiting.is_alive()
    waiting = threading.Thread(target=wait_for_others, args=(tmp_path, first))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    tell_end(tmp_path, second)
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_process_that_is_left_behind_stops_waiting(tmp_path, monkeypatch):
    parents = iter([os.getppid(), os.getppid(), 1])
    monkeypatch.setattr(ranks.os, "getppid", lambda: next(parents))
    with pytest.raises(UserError, match="torchrun has ended and left this process behind"):
        wait_for_others(tmp_path, Rank(0, 2, 0, "job"))


def test_a_job_does_not_begin_beside_a_process_of_an_earlier_one(tmp_path):
    check_alone(tmp_path / "absent")
    with sole_writer(tmp_path / "rank1", is_file=True), pytest.raises(UserError, match="another process is writing"):
        check_alone(tmp_path)
    check_alone(tmp_path)


@pytest.mark.parametrize("count", [2, 5])
def test_shares_put_together_are_what_one_process_writes(tmp_path, count):
    import torch

    from aras.segmenter import build_model

    torch.manual_seed(3)
    model = build_model("Unet", ENCODER, "none").eval()
    labeller = Labeller([model], torch.device("cpu"), 1, maps=False)
    images = make_dataset(tmp_path / "data", test=10) / "test" / "images"
    (images / "N41E031_000_004.png").write_bytes(b"")
    stamps = stamps_of(images)
    names = np.array(sorted(name.removesuffix(SUFFIX) for name in stamps))
    found = []
    for processes in (1, count):
        outputs = outputs_of(images, tmp_path / f"out{processes}")
        done = begin_folder(outputs, stamps, False)
        shares = [Share(images, names, stamps, done, 3, 0, Rank(number, processes)) for number in range(processes)]
        assert sorted(place for share in shares for batch in share.batches() for place in batch) == list(range(10))
        for share in shares:
            label_share(share, labeller, outputs)
        assert len(end_folder(outputs, stamps, False)) == 9
        assert names_done(outputs) == set(names) - {"N41E031_000_004"}
        tables = [path.read_text() for path in (*outputs.tables, outputs.failures)]
        found.append((tables, [read_mask(path).tolist() for path in sorted(outputs.masks.glob("*.png"))]))
        assert not outputs.progress.exists()
    assert found[0] == found[1]
