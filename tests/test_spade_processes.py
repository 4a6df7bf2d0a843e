"""The conditional GAN in processes of their own: two train and draw what one does, and a kill loses nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_dataset import make_dataset
from tiny_gan import assert_same_run, command, make_judge, metrics_of, run, train
from tiny_training import ROOT

pytestmark = pytest.mark.slow

SETTING = ("--epochs", 2, "--no-draw")
SLOWLY = ("--lr-generator", 1e-6, "--lr-discriminator", 1e-6)
"""Adam takes a whole step of the rounding noise of a gradient that should be 0, so steps must be small to compare."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Batches of five are shared out as three and two."""
    data = make_dataset(tmp_path_factory.mktemp("tiny") / "ARAS400k", train=9, val=3)
    make_judge(data.parent / "judge", data)
    return data


def test_two_processes_train_what_one_trains(data, tmp_path):
    options = (*SETTING, *SLOWLY, "--batch-size", 5, "--snapshot-kimg", 0.01)
    assert train(data, tmp_path / "one", *options).exit_code == 0
    told = command(data, tmp_path / "two", *options, "--micro-batch", 2, processes=2)
    result = subprocess.run(told, capture_output=True, text=True, check=False, timeout=600)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Trained 4 steps") == 1
    one, two = metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two")
    assert [line["step"] for line in one] == [line["step"] for line in two] == [2, 4]
    for alone, shared in zip(one, two, strict=True):
        for name in alone:
            if name.startswith(("discriminator", "generator")):
                assert shared[name] == pytest.approx(alone[name], rel=2e-3, abs=1e-5), name
        assert shared["frechet"] == pytest.approx(alone["frechet"], rel=0.05)
        assert shared["diversity_levels"] == pytest.approx(alone["diversity_levels"], rel=0.01)


def test_two_processes_go_on_from_where_two_were_stopped_and_draw_what_one_draws(data, tmp_path):
    def two(outdir, *options):
        told = command(data, outdir, "--no-draw", *options, processes=2)
        result = subprocess.run(told, capture_output=True, text=True, check=False, timeout=600)
        assert result.returncode == 0, result.stderr
        return result

    two(tmp_path / "unbroken", "--epochs", 2)
    two(tmp_path / "broken", "--epochs", 1)
    assert "in 2 processes, 3 steps done before" in two(tmp_path / "broken", "--epochs", 2).stdout
    assert_same_run(tmp_path / "broken", tmp_path / "unbroken")

    words = ("--sample-only", "--weights", tmp_path / "broken" / "best.pt", "--masks", data / "train" / "masks")
    words = (*words, "--samples-per-mask", 3, "--batch-size", 4, "--workers", 0, "--device", "cpu")
    assert run(*words, "--output", tmp_path / "one").exit_code == 0
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", 2, "--standalone")
    script = ROOT / "generative_trainer_unet_spade_gan.py"
    told = map(str, (*torchrun, script, *words, "--output", tmp_path / "both"))
    subprocess.run(list(told), check=True, capture_output=True, timeout=600)
    names = sorted(path.name for path in (tmp_path / "one").glob("*.png"))
    assert len(names) == 27
    assert names == sorted(path.name for path in (tmp_path / "both").glob("*.png"))
    for name in names:  # torchrun gives each process one thread, and convolutions add up in another order
        one, both = (np.asarray(Image.open(tmp_path / who / name)).astype(int) for who in ("one", "both"))
        assert np.abs(one - both).max() <= 1, name


def test_a_process_killed_at_any_moment_leaves_nothing_that_the_next_does_not_mend(data, tmp_path):
    """Each is killed when it has written so many checkpoints, one for each step, or a moment later."""

    def told(outdir):
        return command(data, outdir, "--epochs", 3, "--no-draw", "--checkpoint-minutes", 0)

    def state_of(last: Path) -> int:
        return last.stat().st_ino if last.exists() else 0

    subprocess.run(told(tmp_path / "unbroken"), check=True, capture_output=True)
    last, kills = tmp_path / "broken" / "last.pt", 0
    for checkpoints, wait in ((1, 0.0), (2, 0.05), (3, 0.0), (3, 0.2), (99, 0)):
        process = subprocess.Popen(told(tmp_path / "broken"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        before = state_of(last)
        while process.poll() is None and checkpoints:
            time.sleep(0.002)
            if state_of(last) != before:
                before, checkpoints = state_of(last), checkpoints - 1
        time.sleep(wait)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        _, errors = process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in errors
    assert kills >= 3
    assert_same_run(tmp_path / "broken", tmp_path / "unbroken")
