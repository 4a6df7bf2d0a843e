"""The scale of the training images: the networks work on colours of mean 0 and deviation 1.

How bright images are follows from the stretch that the dataset was made with. Taken as they are, in -1..1, they differ
little: the discriminator then needs twice as many steps to tell the classes, and the generator begins far off.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

MEAN, DEVIATION = -0.3, 0.25
"""Of the three colours in -1..1, about those of the sample region."""


class Scale(nn.Module):
    """Mean and deviation of each colour, kept with the weights: buffers, not learned."""

    mean: "Tensor"
    deviation: "Tensor"

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.full((1, 3, 1, 1), MEAN))
        self.register_buffer("deviation", torch.full((1, 3, 1, 1), DEVIATION))

    def fit(self, images: "Tensor") -> None:
        """Take over mean and deviation of `images` (N, H, W, 3) uint8; those of some hundred will do."""
        colors = images.reshape(-1, 3).double() / 127.5 - 1
        self.mean.copy_(colors.mean(dim=0).view(1, 3, 1, 1))
        # A set of one colour has no deviation; a grey level is the least that counts.
        self.deviation.copy_(colors.std(dim=0, correction=0).clamp(min=1 / 127.5).view(1, 3, 1, 1))

    def standardised(self, images: "Tensor") -> "Tensor":
        """Return `images` (B, 3, H, W) in -1..1 with mean 0 and deviation 1."""
        return (images - self.mean) / self.deviation

    def images(self, standardised: "Tensor") -> "Tensor":
        """Return images (B, 3, H, W) float32, mostly in -1..1, from colours of mean 0 and deviation 1."""
        return standardised.float() * self.deviation + self.mean
