"""Features of an encoder, against the plain way: images read and shown to it one at a time in one process.

Both compute the same features, each in a process of its own.

    python benchmarks/bench_features.py [--images N]

Claims: at least twice the plain way's images/s on 2 cores.
"""

import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import click
import numpy as np
from PIL import Image

from aras.feature_maps.draws import draw_images
from aras.feature_maps.features import extract_features, read_features
from aras.inference import IMAGENET_MEAN, IMAGENET_STD
from aras.training import share_cores

ENCODER = "tu-tf_efficientnet_lite0"
SIDE = 256


def make_images(folder: Path, count: int) -> str:
    """Write `count` images into `folder`, of the demo's pixels if `make demo` was run; return where they are from."""
    rng = np.random.default_rng(0)
    found = sorted((ROOT / "demo" / "ARAS400k" / "train" / "images").glob("*.png"))
    patches = [np.asarray(Image.open(path).convert("RGB")) for path in found]
    source = "the demo's patches" if patches else "noise (run make demo for real pixels)"
    patches = patches or [rng.integers(0, 256, (64, 64, 3), np.uint8)]
    for i in range(count):
        rows = []
        for _ in range(-(-SIDE // patches[0].shape[0])):
            chosen = rng.integers(len(patches), size=-(-SIDE // patches[0].shape[1]))
            rows.append(np.concatenate([patches[k] for k in chosen], axis=1))
        Image.fromarray(np.concatenate(rows)[:SIDE, :SIDE]).save(folder / f"{i:06d}.png")
    return source


def encoder_of_seed() -> "object":
    """Return the encoder, the same in every process."""
    share_cores()
    import segmentation_models_pytorch as smp
    import torch

    torch.manual_seed(0)
    return smp.create_model("Segformer", encoder_name=ENCODER, encoder_weights=None, classes=7).eval().encoder


def peak() -> float:
    """Return this process's peak memory so far in MB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1000


def ours(folder: Path, output: Path, workers: int) -> tuple[float, float]:
    """Return the seconds and the peak memory in MB of extracting by batches."""
    import torch

    encoder: Any = encoder_of_seed()
    encoder = encoder.to(memory_format=torch.channels_last)
    draw = draw_images("set", folder, 10**9, 0)
    start = time.perf_counter()
    failures = extract_features(draw, encoder, output, "0" * 64, 8, workers, torch.device("cpu"))
    if failures:
        raise SystemExit(str(failures))
    return time.perf_counter() - start, peak()


def plain(folder: Path, output: Path) -> tuple[float, float]:
    """Return the seconds and the peak memory in MB of extracting one image at a time."""
    import torch

    encoder: object = encoder_of_seed()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    start = time.perf_counter()
    found = []
    for path in sorted(folder.glob("*.png")):
        pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1).float() / 255
        with torch.no_grad():
            stage = encoder(((pixels - mean) / std)[None])[-1]  # type: ignore[operator]
        found.append(stage.mean(dim=(2, 3)).numpy().ravel())
    np.save(output, np.array(found))
    return time.perf_counter() - start, peak()


@click.command()
@click.option("--images", default=256, show_default=True)
@click.option("--workers", default=0, show_default=True)
def main(images: int, workers: int) -> None:
    """Print images/s and peak memory of the plain way and of ours, and their ratio."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        print(f"{images} images of {SIDE} pixels from {make_images(folder / 'images', images)}; {ENCODER}, on the CPU")
        with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
            slow, slow_peak = pool.submit(plain, folder / "images", folder / "plain.npy").result()
            fast, fast_peak = pool.submit(ours, folder / "images", folder / "set.npz", workers).result()
        off = np.abs(np.load(folder / "plain.npy") - read_features(folder / "set.npz")).max()
        print(f"plain way {images / slow:7.1f} images/s, peak {slow_peak:5.0f} MB")
        print(f"ours      {images / fast:7.1f} images/s, peak {fast_peak:5.0f} MB: {slow / fast:.2f}x the plain way")
        print(f"the features differ by at most {off:.1e}")


if __name__ == "__main__":
    main()
