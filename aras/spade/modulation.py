"""Normalisation whose scale and shift come from the mask (SPADE), made cheap, and the block that is built of it."""

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from aras.legend import NUM_CLASSES

if TYPE_CHECKING:
    from torch import Tensor

SLOPE = 0.2
"""Of the leaky rectifier, as in SPADE and StyleGAN."""


def rms_normalised(x: "Tensor") -> "Tensor":
    """Return `x` (B, C, H, W) divided, at each pixel, by the root mean square of its channels (float32 inside).

    Karras et al. 2018 (arXiv 1710.10196), section 4.2. It knows no other pixel and no other image: instance statistics
    would erase what a mask of a single class says (Park et al. 2019, arXiv 1903.07291, section 3.1), and batch
    statistics would make an image depend on the images that it is drawn with.
    """
    wide = x.float()
    return (wide * (wide.square().mean(dim=1, keepdim=True) + 1e-6).rsqrt()).to(x.dtype)


class Embedding(nn.Module):
    """What all modulations of one scale share: (B, E, h, w) from the mask there, the encoder's features, and z.

    One 3x3 convolution a scale, where SPADE has one for each normalisation. z is the same at every pixel, so it comes
    in as a shift of the channels: the same as z repeated over space and convolved, at no cost.
    """

    def __init__(self, features: int, z_dim: int, width: int):
        super().__init__()
        self.spatial = convolution(NUM_CLASSES + features, width)
        self.latent = nn.Linear(z_dim, width)

    def forward(self, classes: "Tensor", features: "Tensor", z: "Tensor") -> "Tensor":
        """Return the embedding, the mask at this scale `classes` (B, 7, h, w) beside it for the class tables."""
        shift = self.latent(z)[:, :, None, None]
        embedded = functional.leaky_relu(self.spatial(torch.cat([classes, features], 1)) + shift, SLOPE)
        return torch.cat([embedded, classes.to(embedded.dtype)], 1)  # (B, E + 7, h, w)


class Modulation(nn.Module):
    """SPADE's normalise, scale and shift (Park et al. 2019, equation 1), by 1x1 convolutions of the shared embedding.

    The weights of the seven class channels are a scale and a shift for each class, as CLADE looks up (Tan et al. 2021,
    arXiv 2012.04644, section 3.2); those of the embedding say what differs within a class.
    """

    def __init__(self, channels: int, embedding: int):
        super().__init__()
        self.heads = nn.Conv2d(embedding + NUM_CLASSES, 2 * channels, 1)
        nn.init.normal_(self.heads.weight, std=0.5 / math.sqrt(embedding))
        nn.init.zeros_(self.heads.bias)  # type: ignore[arg-type]

    def forward(self, x: "Tensor", embedding: "Tensor") -> "Tensor":
        """Return the modulated `x` (B, C, h, w)."""
        scale, shift = self.heads(embedding).chunk(2, 1)
        return rms_normalised(x) * (1 + scale) + shift


class Noise(nn.Module):
    """Noise of each pixel, added to every channel with a strength that is learned (Karras et al. 2019, section 2).

    It begins at `strength` and not at 0, so that one mask has many images from the first step on: a discriminator that
    has only met flat fields punishes texture, and the generator learns to leave the noise out.
    """

    def __init__(self, channels: int, strength: float = 0.2):
        super().__init__()
        self.strength = nn.Parameter(torch.randn(1, channels, 1, 1) * strength)

    def forward(self, x: "Tensor", noise: "Tensor") -> "Tensor":
        """Return `x` (B, C, h, w) with `noise` (B, 1, h, w)."""
        return x + self.strength.to(x.dtype) * noise.to(x.dtype)


class Block(nn.Module):
    """A residual block of two modulated 3x3 convolutions, in the manner of SPADE's."""

    def __init__(self, inputs: int, outputs: int, embedding: int):
        super().__init__()
        self.modulations = nn.ModuleList([Modulation(inputs, embedding), Modulation(outputs, embedding)])
        self.convolutions = nn.ModuleList([convolution(inputs, outputs), convolution(outputs, outputs)])
        self.noises = nn.ModuleList([Noise(outputs), Noise(outputs)])
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: "Tensor", embedding: "Tensor", noise: "Tensor") -> "Tensor":
        """Return (B, outputs, h, w) for `x` (B, inputs, h, w)."""
        y = x
        for modulation, layer, noisy in zip(self.modulations, self.convolutions, self.noises, strict=True):
            y = noisy(layer(functional.leaky_relu(modulation(y, embedding), SLOPE)), noise)
        return (self.shortcut(x) + y) * math.sqrt(0.5)


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution of the generator: what lies outside is continued by the edge.

    With zeros outside, images have a frame a pixel wide, in which the colour is off.
    """
    layer = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, padding_mode="replicate")
    he_normal(layer)
    return layer


def he_normal(layer: nn.Conv2d | nn.Linear) -> None:
    """Draw the weights of `layer` so that a leaky rectifier after it keeps the variance (He et al. 2015)."""
    nn.init.kaiming_normal_(layer.weight, a=SLOPE)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
