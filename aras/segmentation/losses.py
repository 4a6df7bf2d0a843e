"""Losses of a batch that may be shared out over processes: each is a function of sums that add up over the shares.

`sum_over_ranks` makes a share's sums those of the whole batch, with gradient. Given the same batch, two processes thus
have the loss of one: a mean of the shares' own losses would be another loss, because Dice is no mean over images, and
a mean over pixels is none of means where shares have different numbers of counted pixels.

The formulas are those of segmentation-models-pytorch, and pixels of `NO_DATA` count nowhere. A batch without a counted
pixel has loss 0 and gradient 0. In float32 on a CPU smp's own Dice is 0.001 off for 24 images of 256x256 pixels, by
the rounding of its sum of differences; the sums here are good to 1e-7.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from aras.legend import NO_DATA, NUM_CLASSES
from aras.segmentation.evaluation import Loss

if TYPE_CHECKING:
    from torch import Tensor

SumOverRanks = Callable[["Tensor"], "Tensor"]  # sums of this process -> sums of all, of the same shape

LOSSES = ("dice", "dice+ce", "focal", "lovasz")
"""What `--loss` takes."""

SMALLEST = 1e-7
"""What smp lets no Dice denominator fall below."""

FOCUS = 2.0
"""The exponent of the focal loss, smp's and the paper's."""


def identity(sums: "Tensor") -> "Tensor":
    """Return `sums`: of a process that is alone."""
    return sums


def loss_named(name: str, sum_over_ranks: SumOverRanks = identity) -> Loss:
    """Return the loss `name`, one of `LOSSES`, of logits (B, 7, H, W) and labels (B, H, W) uint8.

    Args:
        name: which.
        sum_over_ranks: called once for each loss, with a vector (S,) float32; every process must call it.

    Raises:
        KeyError: there is no such loss.
    """
    loss = {"dice": dice, "dice+ce": dice_and_cross_entropy, "focal": focal, "lovasz": lovasz}[name]
    return lambda logits, labels: loss(logits.float(), labels, sum_over_ranks)


def dice(logits: "Tensor", labels: "Tensor", sum_over_ranks: SumOverRanks = identity) -> "Tensor":
    """Return the soft Dice loss, the paper's: the sum of 1 - Dice over the classes of the batch, divided by 7.

    smp's DiceLoss("multiclass"), which counts a class that the batch lacks as 0 (Milletari et al. 2016,
    arXiv 1606.04797, section 3, with plain sums below where they square).
    """
    hits = is_class(labels)
    return _dice_of(sum_over_ranks(_dice_sums(logits.log_softmax(dim=1), labels, hits)))


def dice_and_cross_entropy(logits: "Tensor", labels: "Tensor", sum_over_ranks: SumOverRanks = identity) -> "Tensor":
    """Return the Dice loss plus the mean cross-entropy of the counted pixels."""
    import torch

    log_chances, hits = logits.log_softmax(dim=1), is_class(labels)
    surprise = -log_chances.masked_fill(~hits, 0).sum()
    dice_sums = _dice_sums(log_chances, labels, hits)
    sums = sum_over_ranks(torch.cat([dice_sums, surprise.view(1)]))
    counted = sums[2 * NUM_CLASSES : -1].sum()
    return _dice_of(sums[:-1]) + sums[-1] / counted.clamp(min=1)


def focal(logits: "Tensor", labels: "Tensor", sum_over_ranks: SumOverRanks = identity) -> "Tensor":
    """Return the mean over classes and counted pixels of (1 - p)^2 times the binary cross-entropy of each class.

    smp's FocalLoss("multiclass"): each class against the rest, by a sigmoid and not by a softmax, p being the chance
    of what is true (Lin et al. 2017, arXiv 1708.02002, equation 4, without its alpha).
    """
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    surprise = binary_cross_entropy_with_logits(logits, is_class(labels).to(logits.dtype), reduction="none")
    each = (1 - torch.exp(-surprise)) ** FOCUS * surprise  # (B, 7, H, W)
    counted = labels != NO_DATA
    total = each.masked_fill(~counted.unsqueeze(1), 0).sum()
    sums = sum_over_ranks(torch.stack([total, counted.sum().to(total.dtype)]))
    return sums[0] / (sums[1] * NUM_CLASSES).clamp(min=1)


def lovasz(logits: "Tensor", labels: "Tensor", sum_over_ranks: SumOverRanks = identity) -> "Tensor":
    """Return the mean over images of the Lovász-Softmax loss of each; images without a counted pixel are left out.

    smp's LovaszLoss("multiclass", per_image=True): of each class present in the image, the Lovász extension of
    1 - IoU at the errors of its pixels (Berman et al. 2018, arXiv 1705.08790). It is taken per image because it sorts
    the errors: that of a whole batch is no function of sums, so each process would need the pixels of all others.
    """
    import torch

    hits = is_class(labels).flatten(2)  # (B, 7, H * W)
    counted = (labels != NO_DATA).flatten(1)  # (B, H * W)
    errors = (hits.to(logits.dtype) - logits.softmax(dim=1).flatten(2)).abs()
    # An ignored pixel has no error, so it comes behind all that have one and changes nothing before it.
    errors, order = errors.masked_fill(~counted.unsqueeze(1), 0).sort(dim=2, descending=True)
    of_class = (errors * _lovasz_gradient(hits.gather(2, order))).sum(dim=2)  # (B, 7)
    present = hits.any(dim=2)
    of_image = (of_class * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)
    images = counted.any(dim=1).sum().to(of_image.dtype)
    sums = sum_over_ranks(torch.stack([of_image.sum(), images]))
    return sums[0] / sums[1].clamp(min=1)


def is_class(labels: "Tensor") -> "Tensor":
    """Return whether each pixel of `labels` (B, H, W) is of each class, (B, 7, H, W) bool; one of `NO_DATA` is not."""
    import torch

    classes = torch.arange(NUM_CLASSES, dtype=labels.dtype, device=labels.device)
    return labels.unsqueeze(1) == classes.view(1, -1, 1, 1)


def _dice_sums(log_chances: "Tensor", labels: "Tensor", hits: "Tensor") -> "Tensor":
    """Return what Dice is made of, (21,): by class the chance where it is true, the chance everywhere, the pixels."""
    import torch

    everywhere = (0, 2, 3)
    chances = log_chances.exp()
    both = chances.masked_fill(~hits, 0).sum(dim=everywhere)
    predicted = chances.masked_fill((labels == NO_DATA).unsqueeze(1), 0).sum(dim=everywhere)
    return torch.cat([both, predicted, hits.sum(dim=everywhere).to(both.dtype)])


def _dice_of(sums: "Tensor") -> "Tensor":
    """Return the Dice loss of the sums (21,) over a whole batch."""
    both, predicted, true = sums.view(3, NUM_CLASSES)
    each = 1 - both / ((predicted + true) / 2).clamp(min=SMALLEST)
    return (each * (true > 0)).mean()


def _lovasz_gradient(hits: "Tensor") -> "Tensor":
    """Return by how much each pixel raises 1 - IoU, (B, 7, P), the pixels of `hits` (B, 7, P) going wrong in turn.

    Algorithm 1 of Berman et al. 2018.
    """
    import torch

    found = hits.cumsum(dim=2, dtype=torch.float32)  # whole numbers, exact up to 16.7 million pixels an image
    total = found[..., -1:]
    union = total + torch.arange(1, hits.shape[2] + 1, device=hits.device) - found
    lost = 1 - (total - found) / union
    return lost.diff(dim=2, prepend=torch.zeros_like(total))
