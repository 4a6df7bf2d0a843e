"""What the discriminator and the generator minimise. Each is a mean over the images given, in float32.

The mean of micro-batches' or ranks' losses, weighted by their images, is therefore the whole batch's loss, as long as
the class weights are those of the whole batch: they come from its class counts.
"""

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from aras.legend import NO_DATA
from aras.spade.discriminator import FAKE

if TYPE_CHECKING:
    from torch import Tensor


def class_weights(counts: "Tensor") -> "Tensor":
    """Return the weight of a pixel of each class, (7,) float32, from the whole batch's pixel `counts` (7,).

    All pixels / (classes present * pixels of the class), so that each class present has the same say and the mean
    weight is 1; of an absent class it is 0 (Schönfeld et al. 2021, arXiv 2012.04781, section 3.2, class
    balancing, divided by the number of classes present).
    """
    present = counts > 0
    return torch.where(present, counts.sum() / (present.sum() * counts.clamp(min=1)), 0)


def real_pixels(logits: "Tensor", labels: "Tensor", counts: "Tensor") -> "Tensor":
    """Return the class-balanced cross-entropy of `logits` (B, 8, H, W) that should be the classes `labels` (B, H, W).

    Of the seven classes' logits alone, (B, 7, H, W), it asks which class a pixel is, be it fake or not.

    Of the discriminator on real images (Schönfeld et al. 2021, section 3.2, first sum of L_D), and of the generator on
    its own (section 3.3, L_G). Pixels of `NO_DATA` count nothing.
    """
    weights = functional.pad(class_weights(counts), (0, logits.shape[1] - len(counts)))  # "fake" is nobody's label
    surprise = functional.cross_entropy(
        logits.float(), labels.long(), weights.to(logits.device), ignore_index=NO_DATA, reduction="sum"
    )
    return surprise / labels.numel()


def fake_pixels(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """Return the cross-entropy of `logits` (B, 8, H, W) of generated pixels that should be "fake".

    Schönfeld et al. 2021, section 3.2, second sum of L_D. Pixels of `NO_DATA`, cut out of real and generated images
    alike, count nothing.
    """
    surprise = -logits.float().log_softmax(dim=1)[:, FAKE]
    return surprise.masked_fill(labels == NO_DATA, 0).mean()


def real_score(scores: "Tensor") -> "Tensor":
    """Return the mean of softplus(-score) over `scores` (B,): small where they say "real".

    The non-saturating logistic loss (Goodfellow et al. 2014, arXiv 1406.2661, section 3).
    """
    return functional.softplus(-scores.float()).mean()


def fake_score(scores: "Tensor") -> "Tensor":
    """Return the mean of softplus(score) over `scores` (B,): small where they say "fake"."""
    return functional.softplus(scores.float()).mean()


def gradient_penalty(outputs: "Tensor", images: "Tensor") -> "Tensor":
    """Return the mean over images of the squared length of the gradient of `outputs` (B,) by `images` (B, 3, H, W).

    R1 of Mescheder et al. 2018 (arXiv 1801.04406, equation 9) without its gamma / 2. Each output must depend on its own
    image alone. It can be differentiated again.
    """
    (gradient,) = torch.autograd.grad(outputs.sum(), images, create_graph=True)
    return gradient.float().square().sum(dim=(1, 2, 3)).mean()


def hinge_real(scores: "Tensor") -> "Tensor":
    """Return the discriminator's hinge loss of real `scores` (Lim & Ye 2017, arXiv 1705.02894)."""
    return functional.relu(1 - scores.float()).mean()


def hinge_fake(scores: "Tensor") -> "Tensor":
    """Return the discriminator's hinge loss of generated `scores`."""
    return functional.relu(1 + scores.float()).mean()
