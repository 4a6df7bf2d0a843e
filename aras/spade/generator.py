"""The generator: a U-Net whose expanding path the mask modulates at every scale (SPADE), with noise throughout."""

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from aras.legend import NUM_CLASSES
from aras.spade.layout import area_averages, boundaries, one_hot
from aras.spade.modulation import SLOPE, Block, Embedding, convolution, rms_normalised
from aras.spade.scale import Scale

if TYPE_CHECKING:
    from torch import Tensor

Z_DIM = 64
SHRINK = (1, 2, 4, 8, 16, 32)
"""What the sides are divided by at each scale, finest first."""


def channels_of(width: int) -> list[int]:
    """Return the channels at each scale of `SHRINK` for the base `width`, 64 at full size."""
    return [max(width * quarters // 4, 4) for quarters in (2, 4, 8, 12, 16, 16)]


RGB_GAIN = 0.3
"""Deviation of the share of the image that each scale begins with, in deviations of the training images."""


class Generator(nn.Module):
    """Images (B, 3, H, W) of labels (B, H, W), many for each: what differs is z and the noise of the pixels.

    The contracting path reads the mask and its class boundaries, so that a pixel knows the shapes around it. The
    expanding path begins with its coarsest features and z; at each scale a block is modulated by the mask, by the
    contracting path's features there and by z, and adds its share of the image (Karras et al. 2020, arXiv 1912.04958,
    section 4.1, "skip" generator). Sides are multiples of 32.
    """

    z_dim = Z_DIM

    def __init__(self, width: int = 64):
        super().__init__()
        channels = channels_of(width)
        self.scale = Scale()
        self.stem = convolution(NUM_CLASSES + 1, channels[0])
        self.contracting = nn.ModuleList(convolution(fine, coarse, stride=2) for fine, coarse in pairwise(channels))
        self.start = nn.Linear(Z_DIM, channels[-1])
        self.embeddings = nn.ModuleList(Embedding(size, Z_DIM, embedding_width(size)) for size in channels)
        self.blocks = nn.ModuleList(
            Block(coarse, size, embedding_width(size))
            for size, coarse in zip(channels, [*channels[1:], channels[-1]], strict=True)
        )
        heads = [nn.Conv2d(size, 3, 1) for size in channels]
        self.to_rgb = nn.ModuleList(heads)
        for head in heads:
            nn.init.normal_(head.weight, std=RGB_GAIN / math.sqrt(head.in_channels))
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    def noise_shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """Return the shape (1, h, w) of an image's noise at each scale, finest first."""
        return [(1, height // shrink, width // shrink) for shrink in SHRINK]

    def forward(self, labels: "Tensor", z: "Tensor", noise: "list[Tensor] | None" = None) -> "Tensor":
        """Return images (B, 3, H, W) float32, in -1..1 but for a few pixels, and for none once in evaluation mode.

        Args:
            labels: (B, H, W) uint8 or int64; pixels of `NO_DATA` are of no class.
            z: (B, 64) float32, normally distributed. Scaled towards 0 ("truncation") it gives more typical colours;
                noise is texture and is not scaled.
            noise: (B, 1, h, w) float32 at each of `noise_shapes`, normally distributed; drawn if None.
        """
        classes = one_hot(labels)
        masks = area_averages(classes, len(SHRINK))
        if noise is None:
            shapes = self.noise_shapes(*labels.shape[1:])
            noise = [torch.randn(len(labels), *shape, device=labels.device) for shape in shapes]
        features = self.encoded(torch.cat([classes, boundaries(labels)], 1))
        x = features[-1] + self.start(z)[:, :, None, None]
        image = None
        for scale in reversed(range(len(SHRINK))):
            if image is not None:
                x, image = twice(x), twice(image)
            embedding = self.embeddings[scale](masks[scale], features[scale], z)
            x = self.blocks[scale](x, embedding, noise[scale])
            share = self.to_rgb[scale](x).float()
            image = share if image is None else image + share
        assert image is not None
        images = self.scale.images(image)
        # Not clipped while it learns, for there would be no gradient out of range, nor much in it through a tanh.
        return images if self.training else images.clamp(-1, 1)

    def encoded(self, layout: "Tensor") -> "list[Tensor]":
        """Return the contracting path's features at each scale, finest first, of `layout` (B, 8, H, W)."""
        features = [rms_normalised(functional.leaky_relu(self.stem(layout), SLOPE))]
        for layer in self.contracting:
            features.append(rms_normalised(functional.leaky_relu(layer(features[-1]), SLOPE)))
        return features


def embedding_width(channels: int) -> int:
    """Return the channels of the embedding that modulates `channels` channels."""
    return min(max(channels, 16), 64)


def twice(x: "Tensor") -> "Tensor":
    """Return `x` (B, C, h, w) at twice the size, bilinearly."""
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
