"""The discriminator: a U-Net that gives each pixel a class or "fake", and the whole image a global score."""

import math
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from torch import nn
from torch.nn import functional

from aras.legend import NUM_CLASSES
from aras.spade.generator import channels_of, twice
from aras.spade.modulation import SLOPE, he_normal
from aras.spade.scale import Scale

if TYPE_CHECKING:
    from torch import Tensor

FAKE = NUM_CLASSES
"""The class of generated pixels."""


class Verdict(NamedTuple):
    """What the discriminator says: logits of each pixel (B, 8, H, W) and of each image (B,)."""

    pixels: "Tensor"
    images: "Tensor"


class Down(nn.Module):
    """Half the size by a residual block: two 3x3 convolutions and the mean over 2x2."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.first = nn.Conv2d(inputs, inputs, 3, padding=1)
        self.second = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)
        for layer in (self.first, self.second):
            he_normal(layer)

    def forward(self, x: "Tensor") -> "Tensor":
        """Return (B, outputs, h / 2, w / 2)."""
        y = functional.leaky_relu(self.first(x), SLOPE)
        y = functional.leaky_relu(self.second(functional.avg_pool2d(y, 2)), SLOPE)
        return (self.shortcut(functional.avg_pool2d(x, 2)) + y) * math.sqrt(0.5)


class Up(nn.Module):
    """Twice the size, joined by the contracting path's features there.

    They are added and not put beside: the convolution at the larger size then costs a third (Lin et al. 2017, arXiv
    1612.03144, figure 3).
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.lateral = nn.Conv2d(inputs, outputs, 1)
        self.convolution = nn.Conv2d(outputs, outputs, 3, padding=1)
        he_normal(self.convolution)

    def forward(self, x: "Tensor", skipped: "Tensor") -> "Tensor":
        """Return (B, outputs, 2 h, 2 w) of `x` (B, inputs, h, w) and `skipped` (B, outputs, 2 h, 2 w)."""
        x = (twice(self.lateral(x)) + skipped) * math.sqrt(0.5)
        return (x + functional.leaky_relu(self.convolution(x), SLOPE)) * math.sqrt(0.5)


class Discriminator(nn.Module):
    """A `Verdict` on images (B, 3, H, W): pixels are of one of seven classes or fake, and the image is real or not.

    The pixels' part is that of Schönfeld et al. 2021 (arXiv 2012.04781, section 3.2), the global score at the
    bottleneck that of Schönfeld et al. 2020 (arXiv 2002.12655, section 3.1). There is no normalisation layer and no
    statistic of the batch: what it says of an image does not depend on the images beside it.
    """

    def __init__(self, width: int = 64):
        super().__init__()
        channels = channels_of(width)
        self.scale = Scale()
        self.stem = nn.Conv2d(3, channels[0], 3, padding=1)
        pairs = list(pairwise(channels))
        self.down = nn.ModuleList(Down(fine, coarse) for fine, coarse in pairs)
        self.judge = nn.Conv2d(channels[-1], channels[-1], 3, padding=1)
        self.score = nn.Linear(channels[-1], 1)
        self.up = nn.ModuleList(Up(coarse, fine) for fine, coarse in pairs)
        self.classify = nn.Conv2d(channels[0], NUM_CLASSES + 1, 1)
        for layer in (self.stem, self.judge):
            he_normal(layer)

    def forward(self, images: "Tensor", labels: "Tensor | None" = None) -> Verdict:
        """Return the verdict on `images` (B, 3, H, W) in -1..1; it is not told their `labels`."""
        features = [functional.leaky_relu(self.stem(self.scale.standardised(images)), SLOPE)]
        for down in self.down:
            features.append(down(features[-1]))
        x = features[-1]
        scores = self.score(functional.leaky_relu(self.judge(x), SLOPE).mean(dim=(2, 3)))
        for up, skipped in zip(reversed(self.up), reversed(features[:-1]), strict=True):
            x = up(x, skipped)
        return Verdict(self.classify(x), scores[:, 0])
