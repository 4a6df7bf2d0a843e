"""Segmentation scores from one 7 x 7 count of pixels.

The matrix is all that is kept of any number of pixels, and matrices of batches, tiles or processes add up. Every score
is a function of it, equal to scikit-learn's on the same pixels.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from aras.legend import CLASS_NAMES, NO_DATA, NUM_CLASSES

if TYPE_CHECKING:
    import torch

SCORES = ("f1", "iou", "precision", "recall")


def confusion_matrices(truth: "torch.Tensor", prediction: "torch.Tensor") -> "torch.Tensor":
    """Return each image's pixels of each true class (row) by predicted class (column), (B, 7, 7) int64, on its device.

    Args:
        truth: labels (B, H, W) 0..6, or `NO_DATA` where a pixel is not to be counted.
        prediction: labels 0..6, of the same shape.
    """
    import torch

    # 255 * 7 + 6 fits 16 bits, a quarter of what int64 would move. The cell past the last takes the ignored pixels.
    count, size = len(truth), NUM_CLASSES**2 + 1
    cells = truth.short() * NUM_CLASSES + prediction.short()
    cells = cells.masked_fill_(truth == NO_DATA, NUM_CLASSES**2).flatten(1)  # (B, H * W)
    cells = cells + size * torch.arange(count, dtype=torch.int32, device=cells.device).view(-1, 1)
    counts = torch.bincount(cells.flatten(), minlength=count * size).view(count, size)
    return counts[:, : NUM_CLASSES**2].reshape(count, NUM_CLASSES, NUM_CLASSES)


def class_scores(matrices: np.ndarray) -> dict[str, np.ndarray]:
    """Return each of `SCORES` (..., 7) float64 of confusion `matrices` (..., 7, 7); 0 where it divides by 0."""
    hit = np.diagonal(matrices, axis1=-2, axis2=-1).astype(np.float64)
    support, predicted = matrices.sum(axis=-1), matrices.sum(axis=-2)
    return {
        "f1": _ratio(2 * hit, support + predicted),
        "iou": _ratio(hit, support + predicted - hit),
        "precision": _ratio(hit, predicted),
        "recall": _ratio(hit, support),
    }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return `part` / `whole`, 0 where `whole` is 0."""
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)


def scores(matrix: np.ndarray) -> dict[str, Any]:
    """Return every score of a confusion `matrix` (7, 7), ready for JSON.

    `f1`, `iou`, `precision` and `recall` are means over the classes present in the truth (support > 0), so a class
    that a region does not have neither helps nor harms. `f1_all` and so on are means over all seven, an absent class
    counting 0. `absent` names the classes without support; `classes` has each one's scores, null for a class that is
    neither in the truth nor predicted.
    """
    of_class = class_scores(matrix)
    support, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    present = support > 0
    summary: dict[str, Any] = {
        "pixels": int(matrix.sum()),
        "accuracy": float(np.trace(matrix) / max(matrix.sum(), 1)),
    }
    for name in SCORES:
        summary[name] = float(of_class[name][present].mean()) if present.any() else 0.0
    for name in SCORES:
        summary[f"{name}_all"] = float(of_class[name].mean())
    summary["absent"] = [CLASS_NAMES[c] for c in np.flatnonzero(~present)]
    summary["classes"] = {}
    for c, class_name in enumerate(CLASS_NAMES):
        defined = support[c] + predicted[c] > 0
        row: dict[str, float | int | None] = {n: float(of_class[n][c]) if defined else None for n in SCORES}
        summary["classes"][class_name] = row | {"support": int(support[c]), "predicted": int(predicted[c])}
    return summary


def score_table(summary: dict[str, Any]) -> str:
    """Return what `scores` found as a table for people, without the absent classes."""
    lines = [f"{'':10}" + "".join(f"{name:>11}" for name in SCORES) + f"{'pixels':>14}"]
    for name, row in summary["classes"].items():
        if row["support"]:
            lines.append(f"{name:10}" + "".join(f"{row[s]:11.4f}" for s in SCORES) + f"{row['support']:14,}")
    lines.append(f"{'mean':10}" + "".join(f"{summary[s]:11.4f}" for s in SCORES) + f"{summary['pixels']:14,}")
    lines.append(f"accuracy {summary['accuracy']:.4f}")
    if summary["absent"]:
        lines.append(f"no such pixels, so not counted in the mean: {', '.join(summary['absent'])}")
    return "\n".join(lines)
