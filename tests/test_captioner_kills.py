"""The local captioners killed at random places: what they end with is what an unbroken run ends with."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_models
from percentages import write_percentages
from tiny_dataset import make_dataset

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
MAKERS = {"text": "make_qwen3", "vision": "make_gemma3", "vision_language": "make_qwen3_vl"}
CAPTIONS = 24


@pytest.mark.parametrize("kind", MAKERS)
def test_killed_at_random_it_ends_as_an_unbroken_run(tmp_path, kind):
    data = write_percentages(make_dataset(tmp_path / "ARAS400k", size=(64, 64), test=CAPTIONS))
    model = getattr(tiny_models, MAKERS[kind])(tmp_path / "model")
    rng = random.Random(kind)

    def command(where):
        script = [
            sys.executable,
            f"{kind}_captioner.py",
            "--data",
            str(data),
            "--outdir",
            str(where),
            "--device",
            "cpu",
        ]
        return [*script, "--model", str(model), "--batch-size", "2", "--max-new-tokens", "60"]

    subprocess.run(command(tmp_path / "clean"), cwd=ROOT, check=True, capture_output=True)
    out = tmp_path / "killed" / f"test_{kind}.csv"
    killed = 0
    for wanted in (1, 7, 13):
        process = subprocess.Popen(command(out.parent), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if out.exists() and out.read_bytes().count(b"\n") > wanted:
                time.sleep(0.05 * rng.random())
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        killed += process.wait() == -signal.SIGKILL
    assert killed
    assert 1 < out.read_bytes().count(b"\n") <= CAPTIONS + 1
    subprocess.run(command(out.parent), cwd=ROOT, check=True, capture_output=True)
    assert out.read_bytes() == (tmp_path / "clean" / out.name).read_bytes()
