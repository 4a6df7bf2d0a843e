"""What the networks see of a mask: one-hot classes at every scale, and where one class meets another."""

from typing import TYPE_CHECKING

from aras.legend import NUM_CLASSES

if TYPE_CHECKING:
    from torch import Tensor


def one_hot(labels: "Tensor") -> "Tensor":
    """Return (B, 7, H, W) float32 with 1 at the class of each pixel of `labels` (B, H, W), for `NO_DATA` nowhere."""
    import torch

    classes = torch.arange(NUM_CLASSES, dtype=labels.dtype, device=labels.device)
    return (labels.unsqueeze(1) == classes.view(1, -1, 1, 1)).float()


def area_averages(classes: "Tensor", count: int) -> "list[Tensor]":
    """Return `classes` (B, 7, H, W) at `count` scales, each half the one before: the share of each class in a cell.

    Nearest-neighbour shrinking, SPADE's own, loses paths and ditches a pixel wide from the first halving on.
    """
    from torch.nn.functional import avg_pool2d

    scales = [classes]
    while len(scales) < count:
        scales.append(avg_pool2d(scales[-1], 2))
    return scales


def boundaries(labels: "Tensor") -> "Tensor":
    """Return (B, 1, H, W) float32 with 1 at pixels of which one of the four neighbours has another label."""
    import torch

    edges = torch.zeros_like(labels, dtype=torch.bool)
    down = labels[:, 1:] != labels[:, :-1]
    right = labels[:, :, 1:] != labels[:, :, :-1]
    edges[:, 1:] |= down
    edges[:, :-1] |= down
    edges[:, :, 1:] |= right
    edges[:, :, :-1] |= right
    return edges.unsqueeze(1).float()


def class_counts(labels: "Tensor") -> "Tensor":
    """Return the pixels of each class in `labels` (B, H, W), (7,) float32; those of `NO_DATA` count nowhere."""
    import torch

    return torch.bincount(labels.flatten().long(), minlength=NUM_CLASSES)[:NUM_CLASSES].float()
