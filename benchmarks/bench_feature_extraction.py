"""Features of images in each space, as synthetic_metrics.py extracts them: images/s, and memory for few and for many.

Each count of images is extracted in a process of its own, from files, with the cache written.

    python benchmarks/bench_feature_extraction.py [--few N] [--many N] [--inception FILE] [--dinov2 FILE]

Claims: peak memory for 20,000 images is that for 1,000, within 10 %; the encoder of efficientnet-lite0 sees over 100
images/s of 64 pixels on one core.
"""

import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import click
import numpy as np
from PIL import Image

from aras.engines import Engine
from aras.fidelity.caching import Cache
from aras.fidelity.extracting import extract_features
from aras.fidelity.image_statistics import measure_images
from aras.fidelity.sets import Wanted, folder_of, names_in
from aras.patches import png_of_image
from aras.training import share_cores

STATISTICS = "statistics"
"""What needs no network: spectrum and histograms, beside the spaces."""


def make_images(folder: Path, count: int, side: int) -> str:
    """Write `count` images of `side` pixels into `folder`, cut from the demo's if there are any; return where from."""
    rng = np.random.default_rng(0)
    found = sorted((ROOT / "demo" / "ARAS400k" / "train" / "images").glob("*.png"))
    patches = [np.asarray(Image.open(path).convert("RGB")) for path in found]
    source = "the demo's patches" if patches else "noise (run make demo for real pixels)"
    patches = patches or [rng.integers(0, 256, (64, 64, 3), np.uint8)]
    times = -(-side // len(patches[0]))
    folder.mkdir(parents=True)
    for index in range(count):
        rows = [
            np.concatenate([patches[rng.integers(len(patches))] for _ in range(times)], axis=1) for _ in range(times)
        ]
        pixels = np.ascontiguousarray(np.concatenate(rows)[:side, :side].transpose(2, 0, 1))
        (folder / f"{index:06d}.png").write_bytes(png_of_image(pixels))
    return source


def peak() -> float:
    """Return this process's peak memory so far in MB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1000


def extract(kind: str, weights: Path | None, images: Path, output: Path, size: tuple[int, int]) -> tuple[float, float]:
    """Return the seconds and the peak memory in MB of extracting `kind` of `images` and opening it."""
    share_cores()
    wanted = Wanted("set", images, None)
    folder = folder_of(wanted, names_in(wanted))
    rows = Cache(output / f"set.{kind}.npz", "features", kind, folder.images.names, folder.stamps)
    if kind == STATISTICS:
        start = time.perf_counter()
        failures = measure_images(rows, folder, size, Engine(), 1)
    else:
        import torch

        from aras.feature_spaces import encoder_space, open_space

        device = torch.device("cpu")
        if kind == "encoder" and weights is None:
            import segmentation_models_pytorch as smp

            torch.manual_seed(0)
            model = smp.create_model("Segformer", "tu-tf_efficientnet_lite0", encoder_weights=None, classes=7)
            space = encoder_space(model.to(memory_format=torch.channels_last), "", device)
        else:
            space = open_space(kind, weights, device)
        start = time.perf_counter()
        failures = extract_features(rows, folder, space, 1, size, 8, 0)
    if failures:
        raise SystemExit(str(failures))
    found = rows.rows(np.arange(len(folder)))
    seconds, memory = time.perf_counter() - start, peak()
    assert np.isfinite(found).all()
    return seconds, memory


@click.command()
@click.option("--few", default=1000, show_default=True)
@click.option("--many", default=20_000, show_default=True)
@click.option("--side", default=64, show_default=True, help="Pixels.")
@click.option("--inception", type=click.Path(path_type=Path), help="Weights, by runs/inception_weights.py.")
@click.option("--dinov2", type=click.Path(path_type=Path), help="Weights.")
@click.option("--network-images", default=64, show_default=True, help="Of Inception and DINOv2, which are slow.")
def main(few: int, many: int, side: int, inception: Path | None, dinov2: Path | None, network_images: int) -> None:
    """Print images/s and peak memory of each space for few and for many images."""
    with tempfile.TemporaryDirectory() as name:
        folder, size = Path(name), (side, side)
        sources = {count: make_images(folder / str(count), count, side) for count in {few, many, network_images}}
        print(f"images of {side} pixels from {sources[few]}, on the CPU")
        jobs: list[tuple[str, Path | None, int]]
        jobs = [(kind, None, count) for kind in ("encoder", STATISTICS) for count in (few, many)]
        jobs += [(kind, path, network_images) for kind, path in (("inception", inception), ("dinov2", dinov2)) if path]
        for kind, weights, count in jobs:
            with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
                output = folder / f"{kind}{count}"
                output.mkdir()
                seconds, memory = pool.submit(extract, kind, weights, folder / str(count), output, size).result()
            print(f"{kind:11} {count:7,} images: {count / seconds:7.1f} images/s, peak {memory:5.0f} MB", flush=True)


if __name__ == "__main__":
    main()
