"""How captions agree with their masks: a row of counts for each caption, scores and intervals from their sums.

Counts add up over captions, blocks and processes; every score is a function of the sums, so nothing else is kept.
"""

from typing import Any

import numpy as np

from aras.caption_metrics.claims import Claims
from aras.caption_metrics.reading import POSITIONS
from aras.caption_metrics.truth import Places
from aras.legend import CLASS_NAMES, NUM_CLASSES
from aras.scoring import LEVEL, REPEATS, ends

PER_CLASS = ("hit", "wrong", "missed", "absent")
SINGLE = (
    "captions",  # that have a truth
    "inventing",  # captions with a class that the image does not have
    "denials",
    "false_denials",  # of a class that is present
    "dominant_claims",
    "dominant_right",
    "stating",  # captions with a percentage of a class
    "percentages",
    "percentage_error",  # sum, in percentage points
    "percentages_close",  # within one point
    "positions",
    "positions_right",
    "positions_chance",  # sum of the shares of the nine positions that would be right
)
COLUMNS = {name: slice(i * NUM_CLASSES, (i + 1) * NUM_CLASSES) for i, name in enumerate(PER_CLASS)} | {
    name: len(PER_CLASS) * NUM_CLASSES + i for i, name in enumerate(SINGLE)
}
WIDTH = len(PER_CLASS) * NUM_CLASSES + len(SINGLE)
CLOSE = 1.0  # percentage points
AT_ONCE = 100  # resamples, so that memory is bounded


def counts_of(claims: Claims, shares: np.ndarray, places: Places | None, present: float) -> np.ndarray:
    """Return the counts (WIDTH,) float64 of a caption; zeros when its image's shares are not known.

    Args:
        claims: what the caption says.
        shares: (7,) percent of each class, nan when unknown.
        places: where the classes lie, if the mask is there.
        present: percent from which on a class counts as present.
    """
    counts = np.zeros(WIDTH)
    if np.isnan(shares[0]):
        return counts

    def put(name: str, value: Any) -> None:
        counts[COLUMNS[name]] = value

    said, there = np.zeros(NUM_CLASSES, bool), shares >= present
    said[list(claims.asserted)] = True
    put("hit", said & there)
    put("wrong", said & ~there)
    put("missed", ~said & there)
    put("absent", said & (shares == 0))
    put("captions", 1)
    put("inventing", (said & (shares == 0)).any())
    put("denials", len(claims.denied))
    put("false_denials", there[list(claims.denied)].sum())
    if claims.dominant is not None:
        put("dominant_claims", 1)
        put("dominant_right", shares[claims.dominant] == shares.max())
    errors = np.array([abs(value - shares[label]) for label, value in claims.percentages])
    put("stating", len(errors) > 0)
    put("percentages", len(errors))
    put("percentage_error", errors.sum())
    put("percentages_close", (errors <= CLOSE).sum())
    if places is not None and claims.positions:
        put("positions", len(claims.positions))
        put("positions_right", sum(bool(places.denser[label, position]) for label, position in claims.positions))
        put("positions_chance", sum(places.denser[label].sum() / len(POSITIONS) for label, _ in claims.positions))
    return counts


def points_of(counts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return how wrong each caption is (B,), from its `counts` (B, WIDTH) and its image's `shares` (B, 7) in percent.

    A point for each class that the image does not have, for each class denied though present, for a wrong dominant
    class and for wrong positions (their share); the share of the image whose classes are not mentioned; a point for
    each 100 percentage points by which stated percentages are off on average.
    """

    def of(name: str) -> np.ndarray:
        return counts[:, COLUMNS[name]]

    missed = (of("missed") * np.nan_to_num(shares) / 100).sum(axis=1)
    off = of("percentage_error") / np.maximum(of("percentages"), 1) / 100
    astray = (of("positions") - of("positions_right")) / np.maximum(of("positions"), 1)
    wrong_dominant = of("dominant_claims") - of("dominant_right")
    points: np.ndarray = of("absent").sum(axis=1) + of("false_denials") + wrong_dominant + missed + off + astray
    return points


def ratios(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Return every score of the `sums` (..., WIDTH) of counts, each (...); nan where there is nothing to judge.

    `precision`, `recall` and `f1` are over all mentions of all classes together; `f1_macro` is the mean over the
    classes that are present or mentioned.
    """

    def of(name: str) -> np.ndarray:
        return sums[..., COLUMNS[name]]

    hit, wrong, missed = (of(name).sum(axis=-1) for name in ("hit", "wrong", "missed"))
    of_class = share(2 * of("hit"), 2 * of("hit") + of("wrong") + of("missed"))
    defined = ~np.isnan(of_class)
    return {
        "precision": share(hit, hit + wrong),
        "recall": share(hit, hit + missed),
        "f1": share(2 * hit, 2 * hit + wrong + missed),
        "f1_macro": share(np.where(defined, of_class, 0).sum(axis=-1), defined.sum(axis=-1)),
        "hallucination": share(of("absent").sum(axis=-1), hit + wrong),
        "captions_hallucinating": share(of("inventing"), of("captions")),
        "false_denial": share(of("false_denials"), of("denials")),
        "dominant_claimed": share(of("dominant_claims"), of("captions")),
        "dominant_accuracy": share(of("dominant_right"), of("dominant_claims")),
        "percentages_stated": share(of("stating"), of("captions")),
        "percentage_error": share(of("percentage_error"), of("percentages")),
        "percentages_close": share(of("percentages_close"), of("percentages")),
        "position_accuracy": share(of("positions_right"), of("positions")),
        "position_chance": share(of("positions_chance"), of("positions")),
    }


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return `part` / `whole`, nan where `whole` is 0."""
    part, whole = np.asarray(part, dtype=float), np.asarray(whole, dtype=float)
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)


def grounding(blocks: np.ndarray, seed: int) -> dict[str, Any]:
    """Return the scores of a stream, ready for JSON: each with its value and its 95 % interval.

    Args:
        blocks: (G, WIDTH) sums of counts of each block of neighbouring images.
        seed: of the block bootstrap (see `aras.scoring.intervals`).
    """
    total = blocks.sum(axis=0)
    found = ratios(total)
    drawn = resampled(blocks, seed) if len(blocks) > 1 else {}
    scores: dict[str, Any] = {
        name: {"value": number(value), "interval": ends(drawn[name]) if drawn else None}
        for name, value in found.items()
    }
    hit, wrong, missed, absent = (total[COLUMNS[name]] for name in PER_CLASS)
    of_class = {"precision": share(hit, hit + wrong), "recall": share(hit, hit + missed)}
    of_class["f1"] = share(2 * hit, 2 * hit + wrong + missed)
    of_class["hallucination"] = share(absent, hit + wrong)
    scores["classes"] = {
        name: {score: number(values[c]) for score, values in of_class.items()}
        | {"mentioned": int(hit[c] + wrong[c]), "present": int(hit[c] + missed[c])}
        for c, name in enumerate(CLASS_NAMES)
    }
    for name in ("captions", "denials", "dominant_claims", "percentages", "positions"):
        scores[f"count_{name}"] = int(total[COLUMNS[name]])
    return scores | {"blocks": len(blocks), "level": LEVEL, "repeats": REPEATS if drawn else 0}


def resampled(blocks: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Return each score (REPEATS,) of as many draws of the `blocks` (G, WIDTH) with replacement."""
    generator, parts = np.random.default_rng(seed), []
    for start in range(0, REPEATS, AT_ONCE):
        times = generator.multinomial(len(blocks), np.full(len(blocks), 1 / len(blocks)), min(AT_ONCE, REPEATS - start))
        parts.append(ratios(times @ blocks))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def number(value: Any) -> float | None:
    """Return `value` as JSON has it: null for nan."""
    return None if np.isnan(value) else float(value)
