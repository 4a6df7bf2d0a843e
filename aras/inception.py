"""The Inception-v3 of 2015 whose last pooling FID is defined on, with the resize that is part of it.

torchvision's Inception-v3 is a later network. Two things make it the earlier one: averages over a neighbourhood leave
out the padding, and the last block takes a maximum where the others take an average (the facts are those that
mseitzer/pytorch-fid, Apache-2.0, gives with the weights). The state dict is torchvision's, without the classifier.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d
from torchvision.models import inception

SIDE, WIDTH = 299, 2048


class _OfPooled:
    """What makes a block of torchvision pool as the one of 2015 does: it does the pooled branch, its last, again."""

    branch_pool: nn.Module

    @staticmethod
    def pool(x: Tensor) -> Tensor:
        """Return the mean over each pixel's neighbours that are in the image."""
        return avg_pool2d(x, kernel_size=3, stride=1, padding=1, count_include_pad=False)

    def _forward(self, x: Tensor) -> list[Tensor]:
        branches: list[Tensor] = super()._forward(x)  # type: ignore[misc]
        return [*branches[:-1], self.branch_pool(self.pool(x))]


class _BlockA(_OfPooled, inception.InceptionA):
    pass


class _BlockC(_OfPooled, inception.InceptionC):
    pass


class _BlockE(_OfPooled, inception.InceptionE):
    pass


class _LastBlock(_BlockE):
    @staticmethod
    def pool(x: Tensor) -> Tensor:
        return max_pool2d(x, kernel_size=3, stride=1, padding=1)


def inception_2015() -> nn.Module:
    """Return the network, with weights yet to be loaded: images (B, 3, 299, 299) in -1..1 -> features (B, 2048).

    Source:
        Szegedy et al. 2015, arXiv 1512.00567, table 1; Heusel et al. 2017, arXiv 1706.08500, for its use in FID.
    """
    convolution = inception.BasicConv2d
    blocks: list[Any] = [convolution, _BlockA, inception.InceptionB, _BlockC, inception.InceptionD, _BlockE, None]
    network = inception.Inception3(aux_logits=False, init_weights=False, inception_blocks=blocks)
    network.Mixed_7c = _LastBlock(WIDTH)
    network.fc = nn.Identity()
    return network.eval()


def inception_input(images: Tensor) -> Tensor:
    """Return what the network takes of `images` (B, H, W, 3) uint8: (B, 3, 299, 299) float32 in -1..1.

    The resize is TensorFlow 1's bilinear one, in which pixel i of the result lies at i H / 299: unlike PyTorch's it has
    no half pixel, and no antialiasing where an image shrinks.
    """
    pixels = images.permute(0, 3, 1, 2).float()
    rows, cols = (_bilinear(side, pixels.device) for side in pixels.shape[2:])
    return (rows @ pixels @ cols.T - 128) / 128


@cache
def _bilinear(side: int, device: torch.device) -> Tensor:
    """Return the matrix (299, `side`) float32 of the resize along one side."""
    with torch.inference_mode(False):
        place = torch.arange(SIDE, dtype=torch.float32) * torch.tensor(side / SIDE, dtype=torch.float32)
        low = place.long()
        share = (place - low).unsqueeze(1)
        matrix = torch.zeros(SIDE, side)
        matrix.scatter_add_(1, low.unsqueeze(1), 1 - share)
        matrix.scatter_add_(1, (low + 1).clamp_max(side - 1).unsqueeze(1), share)
        return matrix.to(device)


def features_2015(network: nn.Module, images: Tensor) -> Tensor:
    """Return the features (B, 2048) float32 of `images` (B, H, W, 3) uint8, on their device, which is `network`'s."""
    found: Tensor = network(inception_input(images))
    return found
