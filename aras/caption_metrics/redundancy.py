"""How often captions repeat each other: exactly, but for numbers, nearly; and how rich their words are.

Nearly means by MinHash (Broder 1997, "On the resemblance and containment of documents"; banding: Leskovec, Rajaraman
and Ullman, "Mining of Massive Datasets", chapter 3) over pairs of neighbouring words.
"""

import hashlib
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

WORD = re.compile(r"[^\W_]+(?:[.,'’][^\W_]+)*")
NUMERAL = re.compile(r"\d+(?:[.,]\d+)*")
HASHES, BANDS = 64, 16
"""A pair of Jaccard similarity 0.7 shares one of 16 bands of 4 hashes with a chance of 98.8 %."""

AT_ONCE = 1 << 16  # pairs compared, so that memory is bounded
LONGEST = 1000  # words beyond which lengths are counted together
_RANDOM = np.random.default_rng(1997)
FACTORS = _RANDOM.integers(0, 1 << 63, HASHES, dtype=np.uint64) * 2 + 1
SHIFTS = _RANDOM.integers(0, 1 << 63, HASHES, dtype=np.uint64)
PAIRING = np.uint64(0x9E3779B97F4A7C15)  # odd; makes "a b" another pair than "b a"


def digest(text: str) -> int:
    """Return 64 bits that stand for `text`, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


@lru_cache(1 << 16)
def word_digest(word: str) -> int:
    """Return `digest` of a word, remembered."""
    return digest(word)


def words_of(caption: str) -> list[str]:
    """Return the words and numbers of `caption` in lower case."""
    return WORD.findall(caption.lower())


@dataclass(frozen=True)
class Texts:
    """What is kept of the texts of a batch of captions.

    Attributes:
        exact: (B,) uint64, a digest of each caption.
        masked: (B,) uint64, the same with every number as `#`.
        signatures: (B, HASHES) uint32 MinHash.
        lengths: (B,) int64 words.
        words: (T,) uint64 digests of all words in order.
        pairs: (U,) uint64 digests of the different pairs of neighbouring words.
        pair_count: how many pairs there are.
    """

    exact: np.ndarray
    masked: np.ndarray
    signatures: np.ndarray
    lengths: np.ndarray
    words: np.ndarray
    pairs: np.ndarray
    pair_count: int


def texts_of(captions: list[str]) -> Texts:
    """Return what is kept of `captions`."""
    words = [[word_digest(word) for word in words_of(caption)] or [0] for caption in captions]
    lengths = np.array([len(line) for line in words])
    flat = np.array([word for line in words for word in line], dtype=np.uint64)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    follows = np.roll(flat, -1)
    last = starts + lengths - 1
    follows[last] = 0  # a caption's last word is paired with nothing
    shingles = flat * PAIRING + follows
    inner = np.ones(len(flat), bool)
    inner[last] = False
    return Texts(
        exact=np.array([digest(caption) for caption in captions], dtype=np.uint64),
        masked=np.array([digest(NUMERAL.sub("#", caption)) for caption in captions], dtype=np.uint64),
        signatures=signatures_of(shingles, starts),
        lengths=lengths,
        words=flat,
        pairs=np.unique(shingles[inner]),
        pair_count=int(inner.sum()),
    )


def signatures_of(shingles: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the MinHash (B, HASHES) uint32 of the sets of `shingles` (T,) uint64 that begin at `starts` (B,)."""
    least = np.empty((len(starts), HASHES), dtype=np.uint32)
    mixed = shingles ^ (shingles >> np.uint64(32))
    for i in range(HASHES):
        hashed = ((mixed * FACTORS[i] + SHIFTS[i]) >> np.uint64(32)).astype(np.uint32)
        least[:, i] = np.minimum.reduceat(hashed, starts)
    return least


def near_clusters(signatures: np.ndarray, similarity: float) -> int:
    """Return how many groups the texts of `signatures` (N, HASHES) fall into when those alike are put together.

    Two texts are alike when their estimated Jaccard similarity is at least `similarity`. Within each bucket of a band a
    text is compared with the bucket's first and with the one before it, so the work is N times the bands.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count, rows = len(signatures), HASHES // BANDS
    edges: list[np.ndarray] = []
    for band in range(BANDS):
        key = np.zeros(count, dtype=np.uint64)
        for column in range(band * rows, (band + 1) * rows):
            key = (key ^ signatures[:, column]) * PAIRING
        order = np.argsort(key, kind="stable")
        same = key[order][1:] == key[order][:-1]
        bucket = np.concatenate([[0], np.cumsum(~same)])
        first = order[np.searchsorted(bucket, bucket)]
        members = np.flatnonzero(np.concatenate([[False], same]))
        for other in (first[members], order[members - 1]):
            edges.append(alike(signatures, order[members], other, similarity))
    pairs = np.concatenate(edges, axis=1)
    graph = coo_array((np.ones(pairs.shape[1], bool), (pairs[0], pairs[1])), shape=(count, count))
    return int(connected_components(graph, directed=False)[0])


def alike(signatures: np.ndarray, one: np.ndarray, other: np.ndarray, similarity: float) -> np.ndarray:
    """Return those of the pairs (`one`, `other`), (2, K), whose estimated similarity is at least `similarity`."""
    keep = np.zeros(len(one), bool)
    for start in range(0, len(one), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        keep[part] = (signatures[one[part]] == signatures[other[part]]).mean(axis=1) >= similarity
    return np.stack([one[keep], other[keep]])


@dataclass
class TextTally:
    """The texts of a stream, as they come: 300 bytes a caption and the words and pairs that differ.

    Attributes:
        exact, masked, signatures: of each caption (see `Texts`), batch by batch.
        lengths: (LONGEST + 1,) captions by words.
        vocabulary, pairs: digests of the different words and pairs.
        growth: (captions, different words) at 1, 2, 5, 10, 20 ... captions.
    """

    exact: list[np.ndarray] = field(default_factory=list)
    masked: list[np.ndarray] = field(default_factory=list)
    signatures: list[np.ndarray] = field(default_factory=list)
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(LONGEST + 1, dtype=np.int64))
    vocabulary: set[int] = field(default_factory=set)
    pairs: set[int] = field(default_factory=set)
    pair_count: int = 0
    growth: list[tuple[int, int]] = field(default_factory=list)

    def add(self, texts: Texts) -> None:
        """Add a batch."""
        before = int(self.lengths.sum())
        ends = np.cumsum(texts.lengths)
        done = 0
        for stop in growth_points(before, before + len(ends)):
            end = int(ends[stop - before - 1])
            self.vocabulary.update(np.unique(texts.words[done:end]).tolist())
            self.growth.append((stop, len(self.vocabulary)))
            done = end
        self.vocabulary.update(np.unique(texts.words[done:]).tolist())
        self.lengths += np.bincount(np.minimum(texts.lengths, LONGEST), minlength=LONGEST + 1)
        self.exact.append(texts.exact)
        self.masked.append(texts.masked)
        self.signatures.append(texts.signatures)
        self.pairs.update(texts.pairs.tolist())
        self.pair_count += texts.pair_count

    def summary(self, similarity: float) -> dict[str, Any]:
        """Return redundancy, richness and length of the stream, ready for JSON."""
        exact, masked = np.concatenate(self.exact), np.concatenate(self.masked)
        total = len(exact)
        _, first = np.unique(exact, return_index=True)
        is_first = np.zeros(total, bool)
        is_first[first] = True
        starts = np.cumsum([0] + [len(part) for part in self.signatures])
        signatures = np.concatenate(
            [part[is_first[start : start + len(part)]] for start, part in zip(starts, self.signatures, strict=False)]
        )
        words = int((self.lengths * np.arange(LONGEST + 1)).sum())
        steps = np.cumsum(self.lengths)
        low, middle, high = (int(np.searchsorted(steps, part * total)) for part in (0.05, 0.5, 0.95))
        return {
            "captions": total,
            "redundancy": 1 - len(first) / total,
            "redundancy_without_numbers": 1 - len(np.unique(masked)) / total,
            "redundancy_near": 1 - near_clusters(signatures, similarity) / total,
            "distinct_1": len(self.vocabulary) / max(words, 1),
            "distinct_2": len(self.pairs) / max(self.pair_count, 1),
            "vocabulary": len(self.vocabulary),
            "vocabulary_growth": [list(point) for point in self.growth],
            "words": {"mean": words / total, "5%": low, "50%": middle, "95%": high},
        }


def growth_points(before: int, after: int) -> list[int]:
    """Return those of 1, 2, 5, 10, 20, 50 ... that lie in (`before`, `after`]."""
    points, scale = [], 1
    while scale <= after:
        points += [point for point in (scale, 2 * scale, 5 * scale) if before < point <= after]
        scale *= 10
    return points


def distinct(captions: list[str], n: int) -> float | None:
    """Return the share of different runs of `n` words among all of `captions` (distinct-n, Li et al. 2016)."""
    runs = [run for words in map(words_of, captions) for run in zip(*(words[i:] for i in range(n)), strict=False)]
    return len(set(runs)) / len(runs) if runs else None
