"""A training of the conditional GAN that takes seconds, run as its users run it, and what its folder is compared by."""

import json
import sys
from pathlib import Path

from click.testing import CliRunner
from tiny_training import ENCODER, ROOT, same, tensors_of

from generative_trainer_unet_spade_gan import main

TINY = ("--width", 4, "--batch-size", 4, "--workers", 0, "--quality-samples", 2, "--snapshot-kimg", 0.012)
TINY = (*TINY, "--ema-kimg", 0.02, "--device", "cpu")


def make_judge(folder: Path, data: Path, train=("train",)) -> Path:
    """Write a drawn segmenter, said to be trained on sets of `data`, to best.pt in `folder`; return it."""
    import torch

    from aras.segmenter import build_model

    torch.manual_seed(0)
    folder.mkdir(parents=True)
    torch.save(build_model("FPN", ENCODER, "none").state_dict(), folder / "best.pt")
    options = {"arch": "FPN", "encoder": ENCODER, "data": str(data), "train": list(train)}
    (folder / "run.json").write_text(json.dumps({"options": options}))
    return folder / "best.pt"


def words(data, outdir, *more):
    """Return the command line of a tiny training, judged by the judge beside the dataset."""
    judge = ("--judge", data.parent / "judge" / "best.pt")
    return [str(word) for word in ("--data", data, "--outdir", outdir, *TINY, *judge, *more)]


def train(data, outdir, *more):
    """Run the trainer with tiny options; return click's result. A traceback fails the test at once."""
    return run(*words(data, outdir, *more))


def run(*options):
    """Run the script; return click's result. A traceback fails the test at once."""
    result = CliRunner().invoke(main, list(map(str, options)))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def command(data, outdir, *more, processes=1):
    """Return `train` as a command line, for a process of its own or for `processes` started by torchrun."""
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", processes, "--standalone") if processes > 1 else ()
    script = ROOT / "generative_trainer_unet_spade_gan.py"
    return [str(word) for word in (sys.executable, *torchrun, script, *words(data, outdir, *more))]


def timeless(line):
    """Return a line of metrics without what another run of the same takes another time for."""
    return {name: value for name, value in line.items() if "seconds" not in name and name != "images_per_second"}


def metrics_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(one, other):
    """Fail unless two run folders are equal to the bit, times aside."""
    for name in ("best.pt", "trained_generator_single_set_2.pth"):
        assert same(tensors_of(one / name), tensors_of(other / name)), name
    states = [tensors_of(folder / "last.pt") for folder in (one, other)]
    for state in states:
        for name in ("seconds", "snapshot_seconds"):
            del state["numbers"][name]
    assert same(*states)
    assert list(map(timeless, metrics_of(one))) == list(map(timeless, metrics_of(other)))
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, other)]
    assert timeless(results[0] | {"best": timeless(results[0]["best"])}) == timeless(
        results[1] | {"best": timeless(results[1]["best"])}
    )
    samples = [{path.name: path.read_bytes() for path in (folder / "samples").iterdir()} for folder in (one, other)]
    assert samples[0] == samples[1]
