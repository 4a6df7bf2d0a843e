"""The local captioners killed at random places: what they end with is what an unbroken run ends with."""

import multiprocessing
import os
import random
import runpy
import signal
import sys
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest
import tiny_models
from percentages import write_percentages
from tiny_dataset import make_dataset

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
MAKERS = {"text": "make_qwen3", "vision": "make_gemma3", "vision_language": "make_qwen3_vl"}
CAPTIONS = 16
SLOW_TO_IMPORT = [
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.qwen3.modeling_qwen3",
    "transformers.models.gemma3.processing_gemma3",
    "transformers.models.gemma3.modeling_gemma3",
    "transformers.models.qwen3_vl.processing_qwen3_vl",
    "transformers.models.qwen3_vl.modeling_qwen3_vl",
]


def run_script(arguments):
    """Run the script `arguments` as the command line does, saying nothing."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    sys.argv = arguments
    runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")


@pytest.fixture(scope="module")
def begin():
    """Begin a process of its own that runs a script; what is slow to import has been, before it was forked."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(SLOW_TO_IMPORT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # torch reads it when it is imported; so small a model needs no more
        forkserver.ensure_running()

    def start(arguments):
        process = processes.Process(target=run_script, args=(arguments,))
        process.start()
        return process

    return start


def ended(process):
    """Return the exit code of `process`."""
    process.join(120)
    return process.exitcode


@pytest.mark.parametrize("kind", MAKERS)
def test_killed_at_random_it_ends_as_an_unbroken_run(tmp_path, kind, begin):
    data = write_percentages(make_dataset(tmp_path / "ARAS400k", size=(64, 64), test=CAPTIONS))
    model = getattr(tiny_models, MAKERS[kind])(tmp_path / "model")
    rng = random.Random(kind)

    def command(where):
        own = [f"{kind}_captioner.py", "--data", str(data), "--outdir", str(where), "--model", str(model)]
        return [*own, "--device", "cpu", "--batch-size", "2", "--max-new-tokens", "24"]

    assert ended(begin(command(tmp_path / "clean"))) == 0
    out = tmp_path / "killed" / f"test_{kind}.csv"
    killed = 0
    for wanted in (1, 5, 9):
        process = begin(command(out.parent))
        while process.is_alive() and not (out.exists() and out.read_bytes().count(b"\n") > wanted):
            time.sleep(0.002)
        time.sleep(0.02 * rng.random())
        process.kill()
        killed += ended(process) == -signal.SIGKILL
    assert killed
    assert 1 < out.read_bytes().count(b"\n") <= CAPTIONS + 1
    assert ended(begin(command(out.parent))) == 0
    assert out.read_bytes() == (tmp_path / "clean" / out.name).read_bytes()
