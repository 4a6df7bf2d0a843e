"""A stream measured: batches of captions read by worker processes, their counts added up in order."""

import heapq
import itertools
import os
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import NamedTuple

import numpy as np

from aras.blocks import BLOCK_SIZE, block_name
from aras.caption_metrics.claims import claims_of
from aras.caption_metrics.grounding import WIDTH, counts_of, points_of
from aras.caption_metrics.redundancy import Texts, TextTally, digest, texts_of
from aras.caption_metrics.streams import Notes, Row
from aras.caption_metrics.truth import Places, Truth, places_of
from aras.errors import UserError
from aras.tiles import patch_position

BATCH = 500  # captions
GROUPS = 2000
"""Blocks counted apart; more of them, as drawn images without neighbours are, share these by a hash of the name."""


class Sampled(NamedTuple):
    """A caption kept with what it was judged by."""

    row: Row
    shares: np.ndarray  # (7,) percent
    block: int
    points: float


@dataclass(frozen=True)
class Measured:
    """A batch of captions, measured.

    Attributes:
        rows: the captions.
        shares: (B, 7) float32 percent, nan for images that are not known.
        counts: (B, WIDTH) see `grounding.counts_of`.
        points: (B,) how wrong each is.
        texts: what is kept of the texts.
        problems: masks that are missing or cannot be read, as (what, which).
    """

    rows: list[Row]
    shares: np.ndarray
    counts: np.ndarray
    points: np.ndarray
    texts: Texts
    problems: list[tuple[str, str]]


def measure(rows: list[Row], shares: np.ndarray, truth: Truth, present: float) -> Measured:
    """Return the captions `rows` measured against `shares` (B, 7), or against masks where these are nan."""
    counts, problems = np.zeros((len(rows), WIDTH)), []
    shares = shares.copy()
    for i, row in enumerate(rows):
        claims, places = claims_of(row.caption), None
        if claims.positions or np.isnan(shares[i, 0]):
            places, problem = found_places(truth, row, known=not np.isnan(shares[i, 0]))
            if problem:
                problems.append((problem, row.name))
            if places is not None and np.isnan(shares[i, 0]):
                shares[i] = places.shares
        counts[i] = counts_of(claims, shares[i], places, present)
    return Measured(rows, shares, counts, points_of(counts, shares), texts_of([row.caption for row in rows]), problems)


def found_places(truth: Truth, row: Row, known: bool) -> tuple[Places | None, str]:
    """Return where the classes of a caption's image lie, or None and why that is not known."""
    mask = truth.mask_of(row.split, row.name)
    if mask is None:
        return None, (
            "captions with positions have no mask, so these are not judged"
            if known
            else "captions are of images that have neither percentages nor a mask, so they are not judged"
        )
    try:
        return places_of(mask), ""
    except UserError as error:
        return None, f"masks cannot be used ({str(error).split(' (')[0]})"


@dataclass
class StreamTally:
    """All that is kept of a stream: sums by block, texts, a sample, the worst captions.

    Attributes:
        seed: chooses the sample: the images with the smallest digests, so the same ones in every stream.
        sample_size, worst_size: how many captions are kept.
        block_of_patch: blocks by patch name, from patches.csv.
        sums: (GROUPS, WIDTH) counts by block.
    """

    seed: int
    sample_size: int
    worst_size: int
    block_of_patch: dict[str, str]
    texts: TextTally = field(default_factory=TextTally)
    sums: np.ndarray = field(default_factory=lambda: np.zeros((GROUPS, WIDTH)))
    blocks: dict[str, int] = field(default_factory=dict)
    chosen: list[tuple[int, str, Sampled]] = field(default_factory=list)
    bad: list[tuple[float, int, str, Sampled]] = field(default_factory=list)

    def add(self, batch: Measured) -> None:
        """Add a batch."""
        self.texts.add(batch.texts)
        blocks = np.array([self.block(row.name) for row in batch.rows])
        np.add.at(self.sums, blocks, batch.counts)
        for i, row in enumerate(batch.rows):
            key = digest(f"{self.seed}/{row.split}/{row.name}")
            kept = Sampled(row, batch.shares[i], int(blocks[i]), float(batch.points[i]))
            keep(self.chosen, (-key, row.name, kept), self.sample_size)
            if batch.points[i] > 0:
                keep(self.bad, (float(batch.points[i]), -key, row.name, kept), self.worst_size)

    def block(self, name: str) -> int:
        """Return the number below `GROUPS` of the block in which the image `name` lies."""
        position = patch_position(name)
        stem = name.rpartition(".")[0]
        block = self.block_of_patch.get(stem) or (block_name(*position, BLOCK_SIZE) if position else stem)
        if block not in self.blocks and len(self.blocks) < GROUPS:
            self.blocks[block] = len(self.blocks)
        return self.blocks.get(block, zlib.crc32(block.encode()) % GROUPS)

    @property
    def block_sums(self) -> np.ndarray:
        """(G, WIDTH) counts of the blocks that have captions."""
        return self.sums[: len(self.blocks)]

    @property
    def sample(self) -> list[Sampled]:
        """The sampled captions, in the order of their digests."""
        return [kept for _, _, kept in sorted(self.chosen, key=lambda entry: (-entry[0], entry[1]))]

    @property
    def worst(self) -> list[Sampled]:
        """The worst captions, the worst first."""
        return [kept for _, _, _, kept in sorted(self.bad, key=lambda entry: (-entry[0], -entry[1], entry[2]))]


def keep(heap: list, entry: tuple, size: int) -> None:
    """Keep `entry` in `heap` if it is among the `size` largest."""
    if len(heap) < size:
        heapq.heappush(heap, entry)
    elif size and entry[:-1] > heap[0][:-1]:
        heapq.heapreplace(heap, entry)


def measured_batches(rows: Iterable[Row], truth: Truth, present: float, workers: int) -> Iterator[Measured]:
    """Yield the captions `rows`, measured by `workers` processes, in order; only a few batches are held at a time.

    Raises:
        UserError: a process was killed.
    """
    untold = Truth(truth.data, truth.percentages, truth.masks, truth.images)  # without its tables, which stay here
    jobs = ((batch, truth.shares_of(batch)) for batch in batches(rows))
    first = list(itertools.islice(jobs, workers + 1))
    every = itertools.chain(first, jobs)
    if workers == 1 or len(first) <= workers:  # processes would take longer to start
        yield from (measure(batch, shares, untold, present) for batch, shares in every)
        return
    waiting: deque[Future[Measured]] = deque()
    with ProcessPoolExecutor(workers, get_context("spawn"), end_with_parent) as pool:
        try:
            for batch, shares in every:
                waiting.append(pool.submit(measure, batch, shares, untold, present))
                if len(waiting) > 3 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise UserError(
                "a worker was killed, likely out of memory; run the same command with fewer --workers"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def end_with_parent() -> None:
    """Have this worker end when the process that started it is killed, which would else leave it waiting for ever."""
    parent = parent_process()

    def wait() -> None:
        if parent:
            parent.join()
            os._exit(1)

    Thread(target=wait, daemon=True).start()


def batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield `rows` in lists of `BATCH`."""
    rows = iter(rows)
    while batch := list(itertools.islice(rows, BATCH)):
        yield batch


def tally_stream(tally: StreamTally, measured: Iterable[Measured], stream: str, notes: Notes) -> Iterator[int]:
    """Add the batches `measured` to `tally` and their problems to `notes`; yield how many captions each has."""
    for batch in measured:
        tally.add(batch)
        for problem, which in batch.problems:
            notes.add(stream, problem, which)
        yield len(batch.rows)
