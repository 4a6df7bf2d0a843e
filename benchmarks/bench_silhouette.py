"""Silhouettes of all sets and of every two, against scikit-learn called once for each.

Both get the same three sets, each in a process of its own.

    python benchmarks/bench_silhouette.py [--images N] [--large N]

Claims: at least twice as fast as four calls; and 150,000 vectors of 640 numbers in under 4 GB.
"""

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import combinations
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import click
import numpy as np

from aras.feature_maps.silhouette import all_scores, distance_sums
from aras.training import share_cores

WIDTH = 640  # of efficientnet-b7's features
NAMES = ("real", "synthetic", "generated")


def make_sets(sizes: tuple[int, ...]) -> np.ndarray:
    """Return (N, 640) float32 of sets of `sizes` that overlap."""
    rng = np.random.default_rng(0)
    found = rng.standard_normal((sum(sizes), WIDTH), np.float32)
    found += np.repeat(np.arange(len(sizes), dtype=np.float32) * 0.2, sizes)[:, None]
    return found


def peak_of(process: str = "self") -> float:
    """Return the peak memory so far of `process`, a number of one or `self`, in MB."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1000


def ours(sizes: tuple[int, ...]) -> tuple[list[float], float, float, float]:
    """Return the scores, the seconds, those of gathering the distances, and the peak memory in MB of one pass."""
    share_cores()
    import torch

    features = make_sets(sizes)
    start = time.perf_counter()
    sums = distance_sums(features, sizes, torch.device("cpu"))
    gathered = time.perf_counter() - start
    found = all_scores(sums, NAMES, sizes, np.arange(len(features)), 0)
    scores = [values["silhouette"] for values in (found["overall"], *found["pairs"])]
    return scores, time.perf_counter() - start, gathered, peak_of()


def plain(sizes: tuple[int, ...]) -> tuple[list[float], float, float]:
    """Return the scores, the seconds and the peak memory in MB of scikit-learn's."""
    from sklearn.metrics import silhouette_score

    features, labels = make_sets(sizes), np.repeat(np.arange(3), sizes)
    start = time.perf_counter()
    scores = [float(silhouette_score(features, labels))]
    for two in combinations(range(3), 2):
        chosen = np.isin(labels, two)
        scores.append(float(silhouette_score(features[chosen], labels[chosen])))
    return scores, time.perf_counter() - start, peak_of()


def run_large(sizes: tuple[int, ...], ready: Connection) -> None:
    """Say when the vectors are there, and gather their distances."""
    share_cores()
    import torch

    features = make_sets(sizes)
    ready.send(None)
    distance_sums(features, sizes, torch.device("cpu"))


def peak_of_large(sizes: tuple[int, ...], seconds: float) -> float:
    """Return the peak memory in MB of gathering distances for `seconds`, by when every kind of block was met."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=run_large, args=(sizes, there))
    process.start()
    here.recv()
    process.join(seconds)
    peak = peak_of(str(process.pid)) if process.is_alive() else float("nan")
    process.kill()
    process.join()
    return peak


@click.command()
@click.option("--images", default=9000, show_default=True, help="Of all three sets, for the comparison.")
@click.option("--large", default=150_000, show_default=True, help="Of all three sets, for the memory.")
@click.option("--seconds", default=20.0, show_default=True, help="For which the large one runs.")
def main(images: int, large: int, seconds: float) -> None:
    """Print seconds and peak memory of scikit-learn's way and of ours, and their ratio."""
    sizes = (images // 3,) * 3
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        plain_scores, slow, slow_peak = pool.submit(plain, sizes).result()
        scores, fast, gathered, fast_peak = pool.submit(ours, sizes).result()
    off = np.abs(np.array(scores) - plain_scores).max()
    print(f"{sum(sizes)} vectors of {WIDTH} numbers in 3 sets, on the CPU; scores differ by at most {off:.1e}")
    print(f"scikit-learn, 4 calls {slow:7.1f} s, peak {slow_peak:6.0f} MB")
    print(f"ours, one pass        {fast:7.1f} s, peak {fast_peak:6.0f} MB: {slow / fast:.1f}x as fast")
    peak = peak_of_large((large // 3,) * 3, seconds)
    print(f"{large} vectors: peak {peak:.0f} MB in the first {seconds:g} s of gathering; by the square of their")
    print(f"number all distances take {gathered * (large / sum(sizes)) ** 2 / 60:.0f} minutes (extrapolated)")


if __name__ == "__main__":
    main()
