"""The networks of the published recipe: a plain SPADE decoder and a patch discriminator, both with InstanceNorm.

Written from the paper of SPADE (Park et al. 2019, arXiv 1903.07291), of pix2pix (Isola et al. 2017, arXiv 1611.07004)
and the published sizes; they are the arm that ours is compared with. The generator draws nothing: one mask, one image.
"""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from aras.legend import NUM_CLASSES
from aras.spade.layout import one_hot
from aras.spade.modulation import SLOPE

if TYPE_CHECKING:
    from torch import Tensor

START = 16
"""What the mask's sides are divided by where the decoder begins; four doublings follow."""


class SpatialNorm(nn.Module):
    """InstanceNorm, scaled and shifted by convolutions of the mask (Park et al. 2019, equation 1 and figure 2)."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.shared = nn.Conv2d(NUM_CLASSES, hidden, 3, padding=1)
        self.scale = nn.Conv2d(hidden, channels, 3, padding=1)
        self.shift = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x: "Tensor", classes: "Tensor") -> "Tensor":
        """Return the modulated `x` (B, C, h, w); `classes` (B, 7, H, W) are shrunk to it, nearest neighbour."""
        hidden = functional.relu(self.shared(functional.interpolate(classes, x.shape[2:], mode="nearest")))
        return functional.instance_norm(x) * (1 + self.scale(hidden)) + self.shift(hidden)


class SpatialBlock(nn.Module):
    """SPADE's residual block (Park et al. 2019, figure 4 left), its shortcut modulated too."""

    def __init__(self, inputs: int, outputs: int, hidden: int):
        super().__init__()
        middle = min(inputs, outputs)
        self.norms: Any = nn.ModuleList(SpatialNorm(channels, hidden) for channels in (inputs, middle, inputs))
        self.first = nn.Conv2d(inputs, middle, 3, padding=1)
        self.second = nn.Conv2d(middle, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: "Tensor", classes: "Tensor") -> "Tensor":
        """Return (B, outputs, h, w)."""
        y = self.first(functional.leaky_relu(self.norms[0](x, classes), SLOPE))
        y = self.second(functional.leaky_relu(self.norms[1](y, classes), SLOPE))
        return self.shortcut(self.norms[2](x, classes)) + y


class PublishedGenerator(nn.Module):
    """Images (B, 3, H, W) in -1..1 of labels (B, H, W), one for each; sides are multiples of 16.

    The mask at a sixteenth of its size, 16 * width channels, four blocks of half as many each, each followed by a
    nearest-neighbour doubling.
    """

    z_dim = 0

    def __init__(self, width: int = 64):
        super().__init__()
        channels = [width * times for times in (16, 8, 4, 2, 1)]
        self.stem = nn.Conv2d(NUM_CLASSES, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList(SpatialBlock(inputs, outputs, 2 * width) for inputs, outputs in pairwise(channels))
        self.to_rgb = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def noise_shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """Return the shapes of an image's noise: there is none."""
        return []

    def forward(self, labels: "Tensor", z: "Tensor | None" = None, noise: "list[Tensor] | None" = None) -> "Tensor":
        """Return images (B, 3, H, W) float32; `z` (B, 0) and `noise` are there for the sake of the other recipe."""
        classes = one_hot(labels)
        size = [side // START for side in labels.shape[1:]]
        x = self.stem(functional.interpolate(classes, size, mode="nearest"))
        for block in self.blocks:
            x = functional.interpolate(block(x, classes), scale_factor=2, mode="nearest")
        return self.to_rgb(functional.leaky_relu(x, SLOPE)).float().tanh()


class PublishedDiscriminator(nn.Module):
    """Scores (B, 1, h, w) of overlapping patches of mask and image: four 4x4 convolutions and a fifth that scores.

    Isola et al. 2017, section 3.2 and appendix 6.1.2, with InstanceNorm after the first convolution too, as published.
    At 256 pixels there are 30x30 patches.
    """

    def __init__(self, width: int = 64):
        super().__init__()
        channels = [NUM_CLASSES + 3, *(width * times for times in (1, 2, 4, 8))]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 4, stride=stride, padding=1)
            for inputs, outputs, stride in zip(channels[:-1], channels[1:], (2, 2, 2, 1), strict=True)
        )
        self.score = nn.Conv2d(channels[-1], 1, 4, padding=1)

    def forward(self, images: "Tensor", labels: "Tensor") -> "Tensor":
        """Return the scores of `images` (B, 3, H, W) in -1..1 as pictures of `labels` (B, H, W)."""
        x = torch.cat([one_hot(labels), images], 1)
        for convolution in self.convolutions:
            x = functional.leaky_relu(functional.instance_norm(convolution(x)), SLOPE)
        return self.score(x).float()
