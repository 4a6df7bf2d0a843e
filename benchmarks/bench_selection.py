"""The steps of a selection that grow with the number of images, against the plain way; time is the processor's.

Each measurement is a process of its own, on features that lie on disk, of 640 numbers as efficientnet-b7's.

    python benchmarks/bench_selection.py [--images N] [--mix N]

Claims: peak memory of the searches does not grow with the images; near-duplicates within a set take no longer than the
whole matrix of distances at once; and a mix of 300,000 images takes less than two minutes, is nearer to the target than
what greedy choice, image by image, comes to, and sooner there.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Thread

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import click
import numpy as np

from aras.training import share_cores

WIDTH = 640
LEAST = 20.0
"""Distance of near-duplicates: nearer than nearly all of these features, as in sets whose images differ."""


def write_features(path: Path, images: int) -> None:
    """Write (N, 640) float32 features block by block."""
    rng = np.random.default_rng(0)
    array = np.lib.format.open_memmap(path, "w+", np.float32, (images, WIDTH))
    for start in range(0, images, 4096):
        array[start : start + 4096] = rng.standard_normal((min(4096, images - start), WIDTH), np.float32)


@contextmanager
def memory_watched() -> Iterator[list[float]]:
    """Yield a list whose one number is, after the body, by how many MB the memory grew; mapped files do not count."""
    grown, ended = [0.0], Event()
    before = own_memory()

    def watch() -> None:
        while not ended.wait(0.005):
            grown[0] = max(grown[0], own_memory() - before)

    thread = Thread(target=watch)
    thread.start()
    try:
        yield grown
    finally:
        ended.set()
        thread.join()


def own_memory() -> float:
    """Return this process's own memory in MB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) / 1000


def blocks(path: Path, images: int) -> tuple[float, int, float]:
    """Return the seconds, how many stay, and the MB of finding near-duplicates block by block."""
    share_cores()
    from aras.selection.neighbours import repeats

    features = np.load(path, mmap_mode="r")[:images]
    repeats(features[:1], LEAST)  # imports
    with memory_watched() as grown:
        start = time.process_time()
        _, twins = repeats(features, LEAST)
        seconds = time.process_time() - start
    return seconds, int((twins < 0).sum()), grown[0]


def plain(path: Path, images: int) -> tuple[float, int, float]:
    """Return the same by the whole matrix of distances."""
    from scipy.spatial.distance import cdist

    features = np.load(path)[:images]
    start = time.process_time()
    distances = cdist(features, features)
    stays = np.zeros(images, bool)
    for place in range(images):
        stays[place] = not (distances[place, :place][stays[:place]] < LEAST).any()
    return time.process_time() - start, int(stays.sum()), distances.nbytes / 1e6


def shares_of(images: int) -> np.ndarray:
    """Return shares (N, 7) of classes as unequal as land cover."""
    return np.random.default_rng(0).dirichlet([0.6, 0.2, 1.9, 0.8, 0.16, 0.24, 0.24], images)


def mix(images: int) -> tuple[float, float, float]:
    """Return the seconds, the distance to the target, and the MB of choosing a third of the images."""
    from aras.selection.mix import chosen_for_mix, distance_of_mixes

    shares = shares_of(images)
    target = 0.5 * shares.mean(axis=0) + 0.5 / 7
    with memory_watched() as grown:
        start = time.process_time()
        chosen = chosen_for_mix(shares, target, images // 3, seed=0)
        seconds = time.process_time() - start
    return seconds, distance_of_mixes(shares[chosen].mean(axis=0), target), grown[0]


def greedy_mix(images: int) -> tuple[float, float]:
    """Return the seconds and the distance of taking image by image what brings the mix nearest to the target."""
    from aras.selection.mix import distance_of_mixes

    shares = shares_of(images)
    target = 0.5 * shares.mean(axis=0) + 0.5 / 7
    start = time.process_time()
    total, free = np.zeros(7), np.ones(images, bool)
    for count in range(1, images // 3 + 1):
        away = np.square((total + shares) / count - target).sum(axis=1)
        best = int(np.where(free, away, np.inf).argmin())
        free[best] = False
        total += shares[best]
    return time.process_time() - start, distance_of_mixes(total / (images // 3), target)


@click.command()
@click.option("--images", type=click.IntRange(1000), default=10_000, show_default=True, help="Features to search.")
@click.option("--mix", "mixed", type=click.IntRange(1000), default=300_000, show_default=True, help="Shares to mix.")
def main(images: int, mixed: int) -> None:
    """Measure, and print what was found."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.npy"
        write_features(path, 2 * images)

        def alone(work, *arguments):
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                return pool.submit(work, *arguments).result()

        (ours, left, memory), (theirs, same, matrix) = alone(blocks, path, images), alone(plain, path, images)
        print(f"near-duplicates among {images:,}: {ours:.1f} s and {memory:.0f} MB, {left:,} stay")
        print(f"  whole matrix: {theirs:.1f} s and {matrix:.0f} MB, {same:,} stay; {theirs / ours:.1f}x")
        more, _, larger = alone(blocks, path, 2 * images)
        print(f"  twice as many: {more:.1f} s and {larger:.0f} MB")
        print(f"  {images**2 * WIDTH / ours / 1e9:.0f} GFLOP/s of products, in float64")
        seconds, away, memory = alone(mix, mixed)
        print(f"mix of {mixed:,}: {seconds:.1f} s, {100 * away:.4f} % away, {memory:.0f} MB")
        small = mixed // 30
        (seconds, away, _), (theirs, far) = alone(mix, small), alone(greedy_mix, small)
        print(f"  of {small:,}: {seconds:.2f} s, {100 * away:.4f} % away; greedy {theirs:.1f} s, {100 * far:.4f} %")


if __name__ == "__main__":
    main()
