"""Whether a trained segmenter reads in images what their masks say, and of which images its word counts."""

from pathlib import Path
from typing import Any

import numpy as np

from aras.confusion import scores
from aras.fidelity.sets import ImageSet, labelled_by
from aras.legend import NUM_CLASSES
from aras.pairs import SUFFIX
from aras.scoring import intervals
from aras.spade.judge import TrainedOn, trained_on

AGREEMENTS = {"agreement_miou": "iou", "agreement_accuracy": "accuracy"}
"""The measures, and what each is called among scores."""


def reason_against(images: ImageSet, digest: str, trained: TrainedOn) -> str | None:
    """Return why the segmenter's agreement with the masks of `images` says nothing about them; None if it does.

    Args:
        images: the set.
        digest: the SHA-256 of the segmenter's weights.
        trained: what it was trained on.
    """
    masks = images.folder.masks
    if masks is None:
        return "it has no masks"
    if digest in (labelled_by(masks) or ()):
        return "its masks are what this segmenter itself read in the images"
    for folder, seen in trained.seen(images.folder.images.folder, images.names):
        if folder.resolve() == images.folder.images.folder.resolve():
            return f"the segmenter was trained on {len(seen):,} of these images"
    return None


def warning(reference: ImageSet, weights: Path) -> str | None:
    """Return what is to be said of the segmenter in `weights` as the judge of the `reference`; None if nothing is."""
    trained, images = trained_on(weights), reference.folder.images.folder
    if not trained.folders:
        return (
            f"nothing tells which images {weights} was trained on: its agreement with masks counts only if those of"
            f" {reference.name} were not among them"
        )
    for folder, seen in trained.seen(images, reference.names):
        return (
            f"{weights} was trained on {len(seen):,} images of {reference.name} (such as {min(seen)}{SUFFIX} in"
            f" {folder}): their agreement is better than it can judge others; take another --weights"
        )
    if images.parent.name == "val" and images.parent.parent.resolve() == trained.data.resolve():
        return f"{weights} was not trained on val, but its best epoch was chosen by it"
    return None


def agreement(confusions: np.ndarray, blocks: np.ndarray, seed: int) -> dict[str, dict[str, Any]]:
    """Return the mean IoU over the classes that the masks have, and the accuracy, of all pixels, with their intervals.

    Args:
        confusions: (N, 49) pixels of each class of an image's mask by the class read in the image.
        blocks: (N,) the block of each image.
        seed: of the draws of the interval, over blocks (`aras.scoring`).
    """
    names, index = np.unique(blocks, return_inverse=True)
    sums = np.zeros((len(names), NUM_CLASSES**2))
    np.add.at(sums, index, confusions)
    matrices = sums.reshape(-1, NUM_CLASSES, NUM_CLASSES).astype(np.int64)
    found, ends = scores(matrices.sum(axis=0)), intervals(matrices, seed) or {}
    told = {}
    for measure, score in AGREEMENTS.items():
        low, high = ends.get(score) or (None, None)
        told[measure] = {"value": found[score], "low": low, "high": high, "n": len(confusions)}
    return told
