"""A training that takes a second, run as its users run it, and what its folder is compared by."""

import json
import sys
from pathlib import Path

from click.testing import CliRunner

from aras.training import share_cores
from segmentation_train import main

share_cores()
ROOT = Path(__file__).resolve().parent.parent
ENCODER = "tu-test_efficientnet"
NAME = f"ARAS400k_FPN_{ENCODER}"
FPN_HAS_DROPOUT = ("--arch", "fpn")
TINY = (*FPN_HAS_DROPOUT, "--encoder", ENCODER, "--encoder-weights", "none", "--batch-size", 4, "--workers", 0)


def train(data, outdir, *more):
    """Run the trainer with tiny options; return click's result. A traceback fails the test at once."""
    options = ("--data", data, "--outdir", outdir, "--device", "cpu", *TINY, *more)
    result = CliRunner().invoke(main, list(map(str, options)))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def command(data, outdir, *more, processes=1):
    """Return the same as a command line, for a process of its own or for `processes` started by torchrun."""
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", processes, "--standalone") if processes > 1 else ()
    options = ("--data", data, "--outdir", outdir, "--device", "cpu", *TINY, *more)
    return [str(word) for word in (sys.executable, *torchrun, ROOT / "segmentation_train.py", *options)]


def failure(result):
    """Return the one line with which a run failed."""
    assert result.exit_code != 0
    lines = [line for line in result.output.splitlines() if line.startswith("Error")]
    assert len(lines) == 1
    assert result.output.splitlines()[-1] == lines[0]
    return lines[0]


def tensors_of(path):
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def same(one, other):
    """Return whether two nested states are equal to the bit."""
    import torch

    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def assert_same_run(one, other):
    for name in ("test_metrics.json", f"{NAME}.zip"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    for name in ("last.pt", "best.pt"):
        assert same(tensors_of(one / name), tensors_of(other / name)), name
    timeless = [
        [{k: v for k, v in json.loads(line).items() if k not in ("seconds", "images_per_second")} for line in lines]
        for lines in ((folder / "metrics.jsonl").read_text().splitlines() for folder in (one, other))
    ]
    assert timeless[0] == timeless[1]


def cut_at(monkeypatch, owner, name, call, when):
    """Have the run end before or after the `call`-th call of a function, as a kill there would."""
    function, calls = getattr(owner, name), []

    def cut(*arguments):
        calls.append(name)
        if len(calls) == call and when == "before":
            raise KeyboardInterrupt
        result = function(*arguments)
        if len(calls) == call:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(owner, name, cut)
