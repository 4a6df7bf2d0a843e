"""Training in two processes, joined by gloo: what one process trains, whoever starts them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_stylegan import assert_same_run, command, make_images, state_of, train

from stylegan_snapshot import read_snapshot

pytestmark = pytest.mark.slow
MORE = ("--batch", 120, "--batch-gpu", 20, "--mirror", 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("tiny") / "images", classes=2)


def two(data, outdir, *more):
    words = command(data, outdir, *MORE, "--gpus", 2, *more)
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)


def folder_of(outdir):
    (folder,) = outdir.glob("00000-*")
    return folder


@pytest.fixture(scope="module")
def both(data, tmp_path_factory):
    """The folders of a training by one process, and of one by two."""
    outdir = tmp_path_factory.mktemp("runs")
    assert train(data, outdir / "one", *MORE).exit_code == 0
    result = two(data, outdir / "two")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("tick 1 ") == 1
    return folder_of(outdir / "one"), folder_of(outdir / "two")


def test_two_processes_tell_what_one_tells(both):
    """Up to what the order of float32 sums does, which Adam amplifies."""
    one, other = ([json.loads(line) for line in (f / "stats.jsonl").read_text().splitlines()] for f in both)
    for alone, shared in zip(one, other, strict=True):
        for name, value in alone.items():
            if name.startswith(("Loss", "Progress")):
                assert shared[name]["num"] == value["num"], name
                assert shared[name]["mean"] == pytest.approx(value["mean"], rel=2e-3, abs=2e-4), name


def test_two_processes_train_the_networks_of_one(both):
    one, other = (read_snapshot(folder / "network-snapshot-000001.safetensors")[1] for folder in both)
    start = read_snapshot(both[0] / "network-snapshot-000000.safetensors")[1]
    apart = sum(float((one[name] - other[name]).abs().sum()) for name in one)
    moved = sum(float((one[name] - start[name]).abs().sum()) for name in one)
    assert apart < 0.01 * moved
    states = [state_of(folder) for folder in both]
    assert torch.allclose(states[0]["tensors"]["signs"], states[1]["tensors"]["signs"], atol=2)
    for name in ("mean_length", "statistics"):
        assert torch.allclose(states[0]["tensors"][name], states[1]["tensors"][name], rtol=1e-2), name


def test_torchrun_starts_them_too(both, data, tmp_path):
    words = command(data, tmp_path, *MORE, "--gpus", 2)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", *words[1:]]
    subprocess.run(torchrun, capture_output=True, check=True, timeout=300)
    assert_same_run(folder_of(tmp_path), both[1])


def started(data, outdir, *more):
    """Return a training in two processes that has written its first state."""
    words = command(data, outdir, *MORE, "--gpus", 2, "--checkpoint-minutes", 0, *more)
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not list(outdir.glob("*/training-state.json")):
        assert process.poll() is None
        time.sleep(0.05)
    return process


def test_a_run_goes_on_from_where_two_were_stopped(both, data, tmp_path):
    """Also when the process that started them is killed: they end by themselves and leave the folder free."""
    process = started(data, tmp_path)
    process.kill()
    process.wait()
    result = two(data, tmp_path)
    for _ in range(20):
        if "another process is writing" not in result.stderr:
            break
        time.sleep(1)
        result = two(data, tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Goes on with the run after" in result.stdout
    assert_same_run(folder_of(tmp_path), both[1])


def test_a_process_that_is_lost_ends_all_with_one_line(data, tmp_path):
    process = started(data, tmp_path, "--kimg", 500)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    (line,) = (line for line in stderr.splitlines() if line.startswith("Error"))
    assert "run the same command again" in line


def test_what_all_of_them_find_is_told_once(tmp_path):
    data = make_images(tmp_path / "images")
    (data / "003.png").write_bytes(b"no image")
    result = two(data, tmp_path / "out")
    assert result.returncode == 1
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("Error"))
    assert "003.png" in line
