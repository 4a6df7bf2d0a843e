"""Precision, recall, density, coverage and the kernel distance, against the plain way: whole matrices of all pairs.

Both measure the same features, from a file and each in a process of its own. Ours gives an interval too. The plain way
is what the papers' own code does: scikit-learn's distances within and between the sets, once for k = 3 and once for 5.
Its distances are float32, whose rounding moves images that lie on the edge of a ball.

    python benchmarks/bench_fidelity.py [--images N] [--width D] [--large N]

Claims: the same values, in no more time though the interval is within it, and in less than a quarter of the memory; of
four times as many images the memory is the same.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import click
import numpy as np

from aras.fidelity.frechet import frechet_estimate
from aras.fidelity.kernels import kernel_distance
from aras.fidelity.manifolds import manifold_scores
from aras.training import share_cores

NEIGHBORS = (3, 5)


def write_sets(folder: Path, images: int, width: int) -> None:
    """Write two sets of features that overlap."""
    generator = np.random.default_rng(0)
    for name, mean, scale in (("real", 0.0, 1.0), ("fake", 0.2, 0.9)):
        found = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (images, width))
        for start in range(0, images, 4096):
            block = found[start : start + 4096]
            block[:] = generator.normal(mean, scale, block.shape) / np.sqrt(1 + np.arange(width) / 16)


def memory() -> float:
    """Return this process's peak memory so far in MB, without the files that are mapped."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return (int(status["VmHWM"].split()[0]) - int(status["RssFile"].split()[0])) / 1000


def measured(
    folder: Path, measure: Callable[[np.ndarray, np.ndarray], list[float]]
) -> tuple[list[float], float, float]:
    """Return what `measure` finds, its seconds, and the memory in MB by which it raised the peak."""
    share_cores()
    import scipy.stats
    import sklearn.metrics  # noqa: F401  what either way imports is no part of its time
    import torch

    torch.ones((64, 64)) @ torch.ones((64, 64)), scipy.stats.t.ppf(0.9, 5)
    sets = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("real", "fake")]
    before, start = memory(), time.perf_counter()
    found = measure(*sets)
    return found, time.perf_counter() - start, memory() - before


def our_scores(real: np.ndarray, fake: np.ndarray) -> list[float]:
    """Return the four scores."""
    return [each.value for each in vars(manifold_scores(real, fake)).values()]


def plain_scores(real: np.ndarray, fake: np.ndarray) -> list[float]:
    """Return the four scores, for each k from matrices of its own."""
    from sklearn.metrics import pairwise_distances

    found = []
    for k in NEIGHBORS:
        radii = [np.partition(pairwise_distances(each), k, axis=1)[:, k] for each in (real, fake)]
        between = pairwise_distances(real, fake)
        inside, around = between <= radii[0][:, None], between <= radii[1]
        found.append([inside.any(axis=0).mean(), around.any(axis=1).mean()])
        found.append([inside.sum() / (k * len(fake)), inside.any(axis=1).mean()])
    return [*found[0], *found[3]]


def our_kernel(real: np.ndarray, fake: np.ndarray) -> list[float]:
    """Return the kernel distance."""
    return [kernel_distance(real, fake).value]


def plain_kernel(real: np.ndarray, fake: np.ndarray) -> list[float]:
    """Return the kernel distance from three matrices in float64."""

    def kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return (one.astype(np.float64) @ other.T.astype(np.float64) / one.shape[1] + 1) ** 3

    n, m = len(real), len(fake)
    within = [kernel(each, each) for each in (real, fake)]
    across = kernel(real, fake)
    sums = [each.sum() - np.trace(each) for each in within]
    return [sums[0] / (n * (n - 1)) + sums[1] / (m * (m - 1)) - 2 * across.mean()]


def frechet(real: np.ndarray, fake: np.ndarray) -> list[float]:
    """Return the Fréchet distance and its standard error."""
    found = frechet_estimate(real, fake)
    return [found.value, found.standard_error or 0.0]


@click.command()
@click.option("--images", default=4000, show_default=True, help="Of each set, for the comparison.")
@click.option("--width", default=320, show_default=True, help="Numbers of a feature.")
@click.option("--large", default=16_000, show_default=True, help="Of each set, for the memory.")
def main(images: int, width: int, large: int) -> None:
    """Print seconds and memory of the plain way and of ours, and their ratios."""
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        folders = {count: Path(name) / str(count) for count in (images, large)}
        for count, folder in folders.items():
            folder.mkdir()
            write_sets(folder, count, width)
        print(f"two sets of {images:,} features of {width} numbers, on the CPU; large: of {large:,}")
        for told, our, plain in (
            ("precision, recall, density, coverage", our_scores, plain_scores),
            ("kernel distance", our_kernel, plain_kernel),
        ):
            wanted, slow, much = pool.submit(measured, folders[images], plain).result()
            found, fast, little = pool.submit(measured, folders[images], our).result()
            _, large_seconds, large_memory = pool.submit(measured, folders[large], our).result()
            off = np.abs(np.array(found) - wanted).max()
            print(f"{told}: values differ by at most {off:.1e}")
            print(f"  plain           {slow:7.1f} s, {much:7.0f} MB")
            print(f"  ours, interval  {fast:7.1f} s, {little:7.0f} MB")
            print(f"  ours, large     {large_seconds:7.1f} s, {large_memory:7.0f} MB")
            print(f"  {slow / fast:.1f} times the plain way's speed, 1/{much / little:.1f} of its memory")
        (value, error), seconds, grown = pool.submit(measured, folders[large], frechet).result()
        print(f"Fréchet distance, large: {value:.4g} ± {error:.2g} (standard error), {seconds:.1f} s, {grown:.0f} MB")


if __name__ == "__main__":
    main()
