"""gpt_captioner.py against a real HTTP server with files, batches, a ledger of what was paid, and faults."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
from batch_server import KEY, BatchServer, Fate, Fault

import gpt_captioner
from aras.legend import CLASS_NAMES

NAMES = [f"N41E031_000_{i:03d}.png" for i in range(12)]


def write_percentages(path: Path, names=NAMES) -> Path:
    """Write a table of percentages; every third image has a little water."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        (name, *((38.5, 0, 61.5, 0, 0, 0, 0) if i % 3 else (0, 0.4, 60, 0, 9.6, 0, 30))) for i, name in enumerate(names)
    ]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("filename", *CLASS_NAMES), *rows])
    return path


@pytest.fixture
def server(monkeypatch):
    with BatchServer() as site:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", site.url)
        yield site


@pytest.fixture
def caption(run, tmp_path):
    """Run the script on twelve images, five to a batch; more options may be given."""
    table = write_percentages(tmp_path / "data" / "class_percentages" / "test.csv")

    def invoke(*options):
        quick = ("--requests-per-batch", 5, "--poll", 0.01, "--settle", 0, "--tries", 2)
        return run(gpt_captioner.main, *options, "--data", table.parent.parent, "--outdir", tmp_path, *quick)

    return invoke


def captions_in(path: Path) -> dict[str, str]:
    """Return the captions by file name; each must stand once."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["filename", "caption"]
    assert len({row[0] for row in rows}) == len(rows)
    return dict(rows[1:])


def check_whole(folder: Path, server: BatchServer, paid=1) -> None:
    """Every image has a caption, in the order of names, and was run `paid` times."""
    captions = captions_in(folder / "test_gpt.csv")
    assert list(captions) == NAMES
    assert captions[NAMES[0]] == f'The caption of {NAMES[0]}, with a "quote", and.'
    assert server.paid == Counter(dict.fromkeys(NAMES, paid))
    assert not list(folder.glob("*.jsonl"))
    assert not list(folder.glob("*.part"))


def ledger_of(folder: Path) -> dict:
    return json.loads((folder / "test_gpt.csv.batches.json").read_text())


def test_a_bare_run_sends_waits_and_collects(server, caption, tmp_path):
    result = caption()
    assert result.exit_code == 0, result.output
    check_whole(tmp_path, server)
    assert len(server.batches) == 3
    request = json.loads(server.files["file-1"][2].splitlines()[1])
    assert request["custom_id"] == NAMES[1]
    assert request["body"]["model"] == "gpt-6-luna"
    assert request["body"]["max_completion_tokens"] == 100
    assert request["body"]["reasoning_effort"] == "none"
    assert "Grass: 62%, Tree: 38%" in request["body"]["messages"][-1]["content"]
    first = json.loads(server.files["file-1"][2].splitlines()[0])["body"]["messages"][-1]["content"]
    assert "Grass: 60%, Water: 30%, Built-up: 10%" in first
    assert "Shrub" not in first  # 0.4 % rounds to nothing
    record = json.loads((tmp_path / "test_gpt.csv.run.json").read_text())
    assert record["options"]["model"] == "gpt-6-luna"
    assert record["versions"]["openai"]
    assert {batch["step"] for batch in ledger_of(tmp_path)["batches"]} == {"collected"}
    assert sum(batch["tokens_in"] for batch in ledger_of(tmp_path)["batches"]) == 1200


def test_a_second_run_asks_the_server_nothing(server, caption, tmp_path):
    caption()
    before = (tmp_path / "test_gpt.csv").read_bytes(), len(server.asked)
    assert caption().exit_code == 0
    assert ((tmp_path / "test_gpt.csv").read_bytes(), len(server.asked)) == before
