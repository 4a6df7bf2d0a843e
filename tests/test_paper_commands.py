"""runs/paper.sh: its lines are commands that there are, and it goes on, fails and submits as it says."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from tiny_dataset import make_dataset
from tiny_training import ENCODER

ROOT = Path(__file__).resolve().parent.parent
PAPER = ROOT / "runs" / "paper.sh"
LOGGER = """#!/usr/bin/env bash
# Stands for Python: notes what it is asked to run; fails, or waits, where the test says so.
echo "$*" >> "$LOG"
[[ "$*" =~ ${FAIL:-^$} ]] && exit 1
[[ "$*" =~ ${HANG:-^$} ]] && sleep 60
exit 0
"""


@pytest.fixture
def paper(tmp_path):
    """Run paper.sh with its own folders and an interpreter that only notes its lines; return the process."""
    logger = tmp_path / "python"
    logger.write_text(LOGGER)
    logger.chmod(0o755)
    (tmp_path / "data" / "synth" / "images").mkdir(parents=True)
    (tmp_path / "out" / "stylegan").mkdir(parents=True)
    (tmp_path / "out" / "stylegan" / "network-snapshot-000001.safetensors").touch()
    variables = {"PYTHON": logger, "LOG": tmp_path / "log", "PAPER_OUT": tmp_path / "out"}
    variables |= {"PAPER_DATA": tmp_path / "data", "PAPER_ARCHS": "FPN Segformer", "PAPER_SEEDS": "0 1"}

    def run(*arguments, **more):
        (tmp_path / "log").write_text("")
        environment = run.environment | {name: str(value) for name, value in more.items()}
        command = ["bash", str(PAPER), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    run.environment = os.environ | {name: str(value) for name, value in variables.items()}
    return run


def ran(tmp_path):
    return (tmp_path / "log").read_text().splitlines()


def listed(paper, **more):
    """Return (number, stage, state, cost, command words) of each line."""
    rows = [line.split("\t") for line in paper("--list", **more).stdout.splitlines()]
    return [(int(number), stage, state, cost, shlex.split(words)) for number, stage, state, cost, words in rows]


def script_of(name):
    spec = importlib.util.spec_from_file_location(f"script_{Path(name).stem}", ROOT / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("source", ["tiles", "published"])
def test_every_line_is_a_command_that_its_script_understands(paper, source):
    """Numbered, with a cost; scripts and options are those that there are, and the grid is the paper's."""
    rows = listed(paper, PAPER_SOURCE=source, PAPER_ARCHS="Segformer Unet UnetPlusPlus PAN DeepLabV3Plus FPN")
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
    assert all(cost for *_, cost, _ in rows)
    functions = dict(re.findall(r'^(\w+)\(\) \{\n(?:.*\n)*?.*"\$python" ([\w/]+\.py)', PAPER.read_text(), re.M))
    trained = set()
    scripts = {}
    for *_, words in rows:
        if words[0] == "list_subset":
            continue
        name, options = (words[1], words[2:]) if words[0].endswith("python") else (functions[words[0]], words[1:])
        if words[0] == "draw":
            options = ["--network", "x.safetensors", "--outdir", "out", *options]
        script = scripts.setdefault(name, script_of(name))
        context = script.main.make_context(name, options, resilient_parsing=False)
        if name == "segmentation_train.py":
            found = context.params
            trained.add((found["arch"], found["train"], bool(found["only"]), found["seed"]))
    for kind in (
        (("train",), False), (("synth",), False), (("synth",), True), (("train", "synth"), False),
        (("train", "generated"), False), (("train", "synth", "generated"), False),
    ):  # fmt: skip
        archs = {arch for arch, *rest in trained if rest == [*kind, 0]}
        assert archs == {"Segformer", "Unet", "UnetPlusPlus", "PAN", "DeepLabV3Plus", "FPN"}, kind
        assert {seed for _, *rest, seed in trained if rest == [*kind]} == {0, 1}


@pytest.mark.slow
def test_a_second_run_does_nothing_again_and_a_line_done_anew_brings_on_what_reads_it(paper, tmp_path):
    assert paper().returncode == 0
    lines = listed(paper)
    assert len(ran(tmp_path)) == 0
    assert {row[2] for row in lines} == {"done"}
    again = paper()
    assert again.returncode == 0
    assert ran(tmp_path) == []
    assert again.stdout.count("done before") == len(lines)
    for mark in (tmp_path / "out" / "done" / "conditional").iterdir():
        mark.unlink()
    assert paper().returncode == 0
    stages = {next(row[1] for row in lines if shlex.join(row[4][1:]) == line) for line in ran(tmp_path)}
    assert stages == {"conditional", "with_conditional", "with_both", "fidelity", "maps", "tables", "report"}


def test_a_failed_line_stops_what_reads_it_and_nothing_else(paper, tmp_path):
    result = paper(FAIL="stylegan3/train.py")
    assert result.returncode == 1
    told = result.stderr.splitlines()
    assert re.search(r"^   \d+ \(stylegan\) failed: .*stylegan3/train.py", told[2])
    held = {re.search(r"\((\w+)\) was not run, as \w+ failed", line)[1] for line in told if "was not run" in line}
    assert held == {"synth", "labels", "selection", "synthetic", "with_both", "selected", "synth_captions"}
    assert any("results_table.py" in line for line in ran(tmp_path))
    assert any("generated" in line for line in ran(tmp_path))
    done = {row[1] for row in listed(paper) if row[2] == "done"}
    assert {"real", "with_conditional", "captions"} <= done
    assert not done & {"stylegan", "labels", "tables"}  # made of what there was, and again when there is more
    assert paper().returncode == 0
    assert sum("dataset_creator" in line for line in ran(tmp_path)) == 0


def test_other_numbers_of_images_are_other_lines(paper, tmp_path):
    """What reads their outputs waits for them, in the list, on SLURM and in a run in which they fail."""
    assert paper(PAPER_SYNTH=9, PAPER_SUBSET=3).returncode == 0
    assert any("gen_images.py --network" in line and "--count 9 " in line for line in ran(tmp_path))
    waiting = {row[1] for row in listed(paper, PAPER_SYNTH=9, PAPER_SUBSET=4) if row[2] == "-"}
    assert waiting == {
        *("labels", "selection", "synthetic", "with_both", "selected", "fidelity", "maps"),
        *("synth_captions", "caption_metrics", "tables", "report"),
    }
    submitted = paper("--slurm", PAPER_SYNTH=9, PAPER_SUBSET=4).stdout
    assert set(re.findall(r"^(\w+)=\$\(sbatch", submitted, re.M)) == waiting
    failed = paper(FAIL="gen_images", PAPER_SYNTH=7, PAPER_SUBSET=3)
    assert failed.returncode == 1
    assert not [line for line in ran(tmp_path) if "--train synth" in line]
    assert "(synthetic) was not run, as labels failed" in failed.stderr


def test_one_line_or_one_stage(paper, tmp_path):
    rows = listed(paper)
    number = next(row[0] for row in rows if row[1] == "maps")
    assert paper("--only", str(number)).returncode == 0
    assert [line.split()[0] for line in ran(tmp_path)] == ["segformer_vis.py"]
    assert paper("--stage", "real").returncode == 0
    assert len(ran(tmp_path)) == 3  # of two models and two seeds; one is the segmenter
    assert paper("--only", str(number), FAIL="segformer_vis").returncode == 0  # it is done, so it does not fail
    assert paper("--stage", "tables", FAIL="results_table").returncode == 1
    for wrong in (["--only", "9999"], ["--only", "x"], ["--stage", "nowhere"], ["--stage"], ["--all"]):
        assert paper(*wrong).returncode == 2, wrong
    assert paper(PAPER_SOURCE="moon").returncode == 2
    nowhere = paper(PYTHON=tmp_path / "nowhere")
    assert (nowhere.returncode, nowhere.stderr.count("\n")) == (2, 1)
    assert "set PYTHON" in nowhere.stderr


def test_options_reach_their_scripts_and_paths_may_have_spaces(paper, tmp_path):
    spaced = tmp_path / "a folder" / "data"
    paper(PAPER_DATA=spaced, PAPER_TRAIN="--epochs 1 --device cpu", PAPER_MAPS="--method umap")
    lines = ran(tmp_path)
    assert all(line.endswith("--epochs 1 --device cpu") == line.startswith("segmentation_train") for line in lines)
    assert any(line.endswith("--method umap") for line in lines)
    assert any(str(spaced) in shlex.join(row[4]) for row in listed(paper, PAPER_DATA=spaced))


@pytest.mark.slow
def test_slurm_runs_the_same_lines_each_stage_after_those_it_reads(paper, tmp_path):
    """Against an sbatch that runs each task at once, which is one order that SLURM could take.

    What is submitted is what was listed, whatever the environment of the bash that submits.
    """
    paper.environment |= {"PAPER_ARCHS": "Segformer", "PAPER_SEEDS": "0", "PAPER_CAPTION": "--device cpu"}
    (tmp_path / "bin").mkdir()
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text(f"""#!{sys.executable}
import itertools, os, re, subprocess, sys
options = dict(word.lstrip("-").split("=") for word in sys.argv[1:-1] if "=" in word)
known = {str(tmp_path / "jobs")!r}
jobs = open(known).read().split() if os.path.exists(known) else []
for name in re.findall("[0-9]+", options.get("dependency", "")):
    assert name in jobs, sys.argv
ranges = [list(map(int, part.split("-"))) for part in options["array"].split(",")]
for task in itertools.chain(*(range(ends[0], ends[-1] + 1) for ends in ranges)):
    environment = os.environ | {{"SLURM_ARRAY_TASK_ID": str(task)}}
    subprocess.run(["bash", sys.argv[-1]], env=environment, stdout=subprocess.DEVNULL, check=True)
open(known, "a").write(f"{{len(jobs) + 1}} ")
print(len(jobs) + 1)
""")
    sbatch.chmod(0o755)
    for stage in ("download", "dataset"):
        paper("--stage", stage)
    commands = paper("--slurm").stdout
    assert "dataset=" not in commands
    assert "conditional=" in commands
    (tmp_path / "log").write_text("")
    assert all(("afterok" in line) == ("--kill-on-invalid-dep=yes" in line) for line in commands.splitlines())
    environment = {"LOG": str(tmp_path / "log"), "PATH": f"{sbatch.parent}:{os.environ['PATH']}"}
    subprocess.run(["bash"], input=commands, env=environment, cwd=tmp_path, text=True, check=True, capture_output=True)
    tasks = len(ran(tmp_path))
    rows = listed(paper)
    assert {row[2] for row in rows} == {"done"}
    assert tasks == len(rows) - 3  # two were done before, and list_subset needs no Python
    assert "sbatch" not in paper("--slurm").stdout
    assert subprocess.run(["bash", "-n", ROOT / "runs" / "paper.sbatch"], check=False).returncode == 0


@pytest.mark.slow
def test_an_interrupt_ends_it_and_the_next_run_goes_on(paper, tmp_path):
    (tmp_path / "log").write_text("")
    environment = paper.environment | {"HANG": "generative_trainer"}
    process = subprocess.Popen(
        ["bash", str(PAPER)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    while not any("generative_trainer" in line for line in ran(tmp_path)):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130
    before = len(ran(tmp_path))
    assert paper().returncode == 0
    lines = ran(tmp_path)
    assert lines[0].startswith("generative_trainer")
    assert before == 4


# ------------------------------------------------------------------------------------------------- trainings for real


def grid(tmp_path, out):
    """Return the environment of the grid of trainings on a tiny dataset."""
    options = f"--encoder {ENCODER} --encoder-weights none --epochs 1 --batch-size 4 --workers 0 --device cpu"
    options += " --checkpoint-minutes 0"
    return os.environ | {
        **{"PYTHON": sys.executable, "PAPER_DATA": str(tmp_path / "ARAS400k"), "PAPER_OUT": str(out)},
        **{"PAPER_ARCHS": "FPN", "PAPER_SEEDS": "0", "PAPER_SUBSET": "4", "PAPER_TRAIN": options},
    }


def told_by(environment, *arguments):
    """Run paper.sh, which must end well; return what it prints."""
    command = ["bash", PAPER, *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_the_grid_trains_for_real_is_killed_goes_on_and_ends_in_tables(tmp_path):
    """A tiny model on six kinds of training data, two of them with two seeds; what was killed ends as what was not."""
    data = make_dataset(tmp_path / "ARAS400k", train=6, val=3, test=4, synth=6)
    shutil.copytree(data / "train" / "images", data / "train" / "generated")
    whole, broken = grid(tmp_path, tmp_path / "whole"), grid(tmp_path, tmp_path / "broken")
    rows = [line.split("\t") for line in told_by(broken, "--list").splitlines()]
    subset = next(row[0] for row in rows if row[4].startswith("list_subset"))
    second = [row[0] for row in rows if row[1] == "synthetic"][1]
    told_by(whole, "--only", second)
    told_by(broken, "--only", subset)
    process = subprocess.Popen(
        ["bash", PAPER, "--stage", "synthetic"], env=broken, stdout=subprocess.DEVNULL, start_new_session=True
    )
    done, begun = tmp_path / "broken" / "done" / "synthetic", tmp_path / "broken" / "segmentation" / "synth"
    try:
        while process.poll() is None and not list(begun.rglob("last.pt")):  # that of the second line's first step
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert len(list(done.iterdir())) == 1
    two_seeds = broken | {"PAPER_SEEDS": "0 1"}
    for stage, environment in (
        *(("synthetic", broken), ("real", two_seeds), ("with_conditional", two_seeds)),
        *(("with_both", broken), ("tables", broken)),
    ):
        told_by(environment, "--stage", stage)
    found = next((tmp_path / "whole").rglob("test_metrics.json"))
    assert found.read_bytes() == (tmp_path / "broken" / found.relative_to(tmp_path / "whole")).read_bytes()

    made = json.loads((tmp_path / "broken" / "results" / "results.json").read_text())["tables"]
    table = next(one for one in made if one["name"] == "segmentation_f1_1")
    assert table["columns"] == [
        *("Real", "Synthetic", "Real + synthetic", "Real + conditional", "Real + synthetic + conditional"),
        "Synthetic (synth_subset, 4)",
    ]
    (row,) = table["rows"]
    assert row["label"] == "FPN"
    assert ["±" in cell["ours"] for cell in row["cells"]] == [True, False, False, True, False, False]
    assert {cell["state"] for cell in row["cells"] if cell["paper"]} == {"not comparable"}
    comparisons = next(one for one in made if one["name"] == "comparisons_1")
    pairs = {row["label"]: row["cells"][1]["ours"] for row in comparisons["rows"]}
    assert pairs["Real + conditional – Real"] == "2"
    assert sorted(pairs.values()) == [*"1" * (len(pairs) - 1), "2"]
    assert {cell["state"] for row in made[0]["rows"] for cell in row["cells"]} == {"not run"}


def test_usage_errors_of_click_are_seen_by_the_check_of_lines():
    """The check above parses for real: a wrong option is an error."""
    with pytest.raises(click.UsageError):
        script_of("segmentation_train.py").main.make_context("segmentation_train.py", ["--no-such-option"])
