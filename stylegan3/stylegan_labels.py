"""Labels of images in dataset.json: a class each, or a vector each."""

import json
import math
from typing import Any

import numpy as np

from stylegan_errors import StyleganError

NAMED = 3  # images that an error names


def labels_by_name(content: bytes | None, where: str) -> dict[str, Any]:
    """Return the label of each image that `content`, the bytes of dataset.json, names; none without any.

    Raises:
        StyleganError: it is not {"labels": [["path", label], ...]} or {"labels": null}, or names an image twice.
    """
    try:
        pairs = json.loads(content or b"{}").get("labels") or []
        found = {str(name): label for name, label in pairs}
    except (ValueError, TypeError, AttributeError):
        raise StyleganError(f'{where} is not of the form {{"labels": [["path/of/image.png", label], ...]}}') from None
    if len(found) < len(pairs):
        raise StyleganError(f"{where} has {len(pairs)} labels for {len(found)} images; label each once")
    return found


def read_labels(content: bytes | None, names: list[str], where: str) -> np.ndarray:
    """Return the labels of the images `names`, (N, K) float32: classes one-hot, vectors as they are.

    Args:
        content: the bytes of dataset.json, if there is one.
        names: the images by their paths from its folder.
        where: its path, for errors.

    Raises:
        StyleganError: there are none, they are of another form, or images and labels do not match.
    """
    found = labels_by_name(content, where)
    if not found:
        raise StyleganError("--cond=True requires labels specified in dataset.json")
    without, extra = [name for name in names if name not in found], found.keys() - set(names)
    if without:
        raise StyleganError(f"{where} has no label for {told(without)}; add them, or train with --cond=0")
    if extra:
        raise StyleganError(f"{where} has labels of {told(sorted(extra))}, but no such image is there; remove them")
    return as_vectors([found[name] for name in names], names, where)


def told(names: list[str]) -> str:
    """Return the first of `names`, and how many there are."""
    return f"{len(names)} images ({', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''})"


def as_vectors(labels: list[Any], names: list[str], where: str) -> np.ndarray:
    """Return `labels` as (N, K) float32; see `read_labels`."""
    if all(type(label) is int and label >= 0 for label in labels):
        classes = np.array(labels)
        return (classes[:, None] == np.arange(classes.max() + 1)).astype(np.float32)
    width = len(labels[0]) if isinstance(labels[0], list) else 0
    for name, label in zip(names, labels, strict=True):
        numbers = isinstance(label, list) and all(
            type(value) in (int, float) and math.isfinite(value) for value in label
        )
        if not numbers or not width or len(label) != width:
            raise StyleganError(
                f"{where} has the label {json.dumps(label)} for {name}; labels are classes 0, 1, ... or lists of finite"
                " numbers, all of one kind and length"
            )
    return np.array(labels, np.float32)
