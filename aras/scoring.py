"""How sure a score is and how it varies by tile, from the confusion matrices of a split's blocks."""

from typing import Any

import numpy as np

from aras.blocks import Blocks
from aras.confusion import SCORES, class_scores, scores
from aras.legend import CLASS_NAMES, NUM_CLASSES

LEVEL = 0.95
REPEATS = 2000
"""Resamples: the ends of a 95 % interval then move by a few hundredths of its width from seed to seed."""

AT_ONCE = 250  # resamples, so that memory is bounded


def intervals(matrices: np.ndarray, seed: int = 0) -> dict[str, Any] | None:
    """Return the 95 % interval of each score, ready for JSON; None when there are fewer than two blocks.

    Whole blocks are drawn with replacement, as many as there are, and scored together; the interval is from the 2.5th
    to the 97.5th percentile of the scores of `REPEATS` such draws (block bootstrap: Kuensch 1989, Annals of Statistics
    17, 1217; percentile interval: Efron 1979). Means are over the classes that a draw has; a class's own interval is
    over the draws that have it, null when none does.

    Args:
        matrices: pixels of each true class (row) by predicted class (column) of each block, (G, 7, 7).
        seed: of the draws.
    """
    if len(matrices) < 2:
        return None
    generator, flat = np.random.default_rng(seed), matrices.reshape(len(matrices), -1).astype(np.float64)
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in ("accuracy", *SCORES)}
    for start in range(0, REPEATS, AT_ONCE):
        times = generator.multinomial(len(flat), np.full(len(flat), 1 / len(flat)), min(AT_ONCE, REPEATS - start))
        sums = (times @ flat).reshape(-1, NUM_CLASSES, NUM_CLASSES)
        drawn["accuracy"].append(sums.trace(axis1=1, axis2=2) / np.maximum(sums.sum(axis=(1, 2)), 1))
        present = sums.sum(axis=2) > 0  # (repeats, 7)
        for name, of_class in class_scores(sums).items():
            drawn[name].append(np.where(present, of_class, np.nan))
    stacked = {name: np.concatenate(parts) for name, parts in drawn.items()}
    found: dict[str, Any] = {"level": LEVEL, "repeats": REPEATS, "accuracy": ends(stacked["accuracy"])}
    for name in SCORES:
        found[name] = ends(mean_of_present(stacked[name]))
    found["classes"] = {
        class_name: {name: ends(stacked[name][:, c]) for name in SCORES} for c, class_name in enumerate(CLASS_NAMES)
    }
    return found


def mean_of_present(values: np.ndarray) -> np.ndarray:
    """Return the mean of each row of `values` (R, 7) over what is not nan, nan for a row that has nothing else."""
    there = ~np.isnan(values)
    count = there.sum(axis=1)
    return np.divide(np.where(there, values, 0).sum(axis=1), count, out=np.full(len(values), np.nan), where=count > 0)


def ends(values: np.ndarray) -> list[float] | None:
    """Return the ends of the interval that holds `LEVEL` of `values`, without those that are nan."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [float(low), float(high)]


def tile_table(matrices: np.ndarray, blocks: Blocks) -> list[dict[str, Any]]:
    """Return a row for each tile, in the order of names: its images, blocks, classes, accuracy and mean F1 and IoU.

    Means are over the classes that the tile has, so tiles with other classes do not compare by them.

    Args:
        matrices: confusion matrix of each block, (G, 7, 7).
        blocks: the blocks.
    """
    images, tiles = np.bincount(blocks.index, minlength=len(blocks)), np.array(blocks.tiles)
    rows = []
    for tile in sorted(set(blocks.tiles)):
        of_tile = tiles == tile
        found = scores(matrices[of_tile].sum(axis=0))
        rows.append(
            {
                "tile": tile,
                "images": int(images[of_tile].sum()),
                "blocks": int(of_tile.sum()),
                "pixels": found["pixels"],
            }
            | {"classes": NUM_CLASSES - len(found["absent"])}
            | {name: found[name] for name in ("accuracy", "f1", "iou")}
        )
    return rows
