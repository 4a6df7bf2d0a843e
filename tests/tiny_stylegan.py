"""A training of StyleGAN that takes seconds, run as its users run it."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from click.testing import CliRunner
from PIL import Image

from train import main

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = (
    *("--cfg", "stylegan2", "--gpus", 1, "--batch", 60, "--gamma", 0.1, "--cbase", 64, "--cmax", 8, "--map-depth", 1),
    *("--kimg", 1, "--tick", 1, "--metrics", "none", "--workers", 0, "--device", "cpu"),
)
"""17 iterations, so that every phase has its turn twice."""

NAME = "stylegan2-images-gpus1-batch60-gamma0.1"


def make_images(folder, count=24, size=16, classes=0):
    """Write images that tell apart by colour; with `classes`, also their labels."""
    folder.mkdir(parents=True)
    numbers = np.random.default_rng(0)
    for index in range(count):
        colour = numbers.integers(0, 255, 3)
        pixels = np.clip(colour + numbers.normal(0, 20, (size, size, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03}.png")
    if classes:
        labels = [[f"{index:03}.png", index % classes] for index in range(count)]
        (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    return folder


def train(data, outdir, *more, without=()):
    """Run the trainer with tiny options, but for those named in `without`; return click's result."""
    pairs = zip(OPTIONS[::2], OPTIONS[1::2], strict=True)
    options = [word for pair in pairs if pair[0] not in without for word in pair]
    return invoke("--data", data, "--outdir", outdir, *options, *more)


def invoke(*words):
    """Run the trainer; return click's result. A traceback fails the test at once."""
    result = CliRunner().invoke(main, list(map(str, words)))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def command(data, outdir, *more):
    """Return the same as a command line, for a process of its own."""
    script = ROOT / "stylegan3" / "train.py"
    return [str(word) for word in (sys.executable, script, "--data", data, "--outdir", outdir, *OPTIONS, *more)]


def state_of(folder):
    return torch.load(folder / "training-state.pt", map_location="cpu", weights_only=True)


def same(one, other):
    """Return whether two nested states are equal to the bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def timeless(folder, name="stats.jsonl"):
    """Return the lines of a file without what depends on the clock or the machine.

    Numbers to 12 digits: sums that ranks shared before a kill are added up in another order than unbroken ones.
    """

    def number(text):
        return float(f"{float(text):.12g}")

    lines = [json.loads(line, parse_float=number) for line in (folder / name).read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if not key.startswith(("Timing", "Resources", "timestamp"))}
        for line in lines
    ]


def assert_same_run(one, other):
    states = [state_of(folder) for folder in (one, other)]
    for state in states:
        state["numbers"].pop("seconds")
    assert same(*states)
    assert timeless(one) == timeless(other)
    names = [sorted(p.name for p in f.iterdir() if p.suffix in (".png", ".safetensors")) for f in (one, other)]
    assert names[0] == names[1]
    for name in names[0]:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def failure(result):
    """Return the one line with which a run failed."""
    assert result.exit_code == 1, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("Error")]
    assert len(lines) == 1
    return lines[0]
