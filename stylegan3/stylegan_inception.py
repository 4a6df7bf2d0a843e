"""The Inception-v3 of 2015-12-05, in whose features FID, KID and the inception score are defined.

Its layers are those of torchvision's Inception-v3 but for two things: averages over a neighbourhood leave the padding
out, and the last block takes a maximum where the others take an average. Images are resized as TensorFlow 1 does, which
is part of the definition. (Szegedy et al. 2015, arXiv 1512.00567; the differences are told by mseitzer/pytorch-fid,
which also provides the weights.)
"""

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d
from torchvision.models.inception import BasicConv2d, Inception3, InceptionA, InceptionB, InceptionC, InceptionD
from torchvision.models.inception import InceptionE as TorchvisionE

SIDE, WIDTH = 299, 2048


def mean_around(x: Tensor) -> Tensor:
    """Return the mean over each pixel's neighbours that are in the image."""
    return avg_pool2d(x, kernel_size=3, stride=1, padding=1, count_include_pad=False)


class BlockA(InceptionA):
    """The block at 35 pixels."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        wide = self.branch5x5_2(self.branch5x5_1(x))
        twice = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return [self.branch1x1(x), wide, twice, self.branch_pool(mean_around(x))]


class BlockC(InceptionC):
    """The block at 17 pixels."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return [self.branch1x1(x), once, twice, self.branch_pool(mean_around(x))]


class BlockE(TorchvisionE):
    """The block at 8 pixels."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        once = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return [
            self.branch1x1(x),
            torch.cat([self.branch3x3_2a(once), self.branch3x3_2b(once)], dim=1),
            torch.cat([self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice)], dim=1),
            self.branch_pool(self._pool(x)),
        ]

    @staticmethod
    def _pool(x: Tensor) -> Tensor:
        return mean_around(x)


class LastBlock(BlockE):
    """The last block at 8 pixels."""

    @staticmethod
    def _pool(x: Tensor) -> Tensor:
        return max_pool2d(x, kernel_size=3, stride=1, padding=1)


def inception_2015() -> Inception3:
    """Return the network, with weights yet to be loaded: images (B, 3, 299, 299) in [-1, 1) -> features (B, 2048).

    The features are the means of the last block over space; the classifier is left out.
    """
    blocks = [BasicConv2d, BlockA, InceptionB, BlockC, InceptionD, BlockE, nn.Module]
    network = Inception3(aux_logits=False, init_weights=False, inception_blocks=blocks)
    network.Mixed_7c = LastBlock(WIDTH)
    network.fc = nn.Identity()
    return network.eval()


def inception_input(images: Tensor) -> Tensor:
    """Return what the network takes of `images` (B, 3, H, W) uint8: (B, 3, 299, 299) float32 in [-1, 1).

    The resize is TensorFlow 1's bilinear one, in which pixel i of the result lies at i H / 299: unlike PyTorch's it has
    no half pixel, and no antialiasing where an image shrinks.
    """
    rows, cols = (resize_matrix(side, images.device) for side in images.shape[2:])
    return (rows @ images.float() @ cols.T - 128) / 128


@cache
def resize_matrix(side: int, device: torch.device) -> Tensor:
    """Return the matrix (299, `side`) float32 of the resize along one side."""
    with torch.inference_mode(False):
        place = torch.arange(SIDE, dtype=torch.float32) * torch.tensor(side / SIDE, dtype=torch.float32)
        low = place.long()
        share = (place - low).unsqueeze(1)
        matrix = torch.zeros(SIDE, side)
        matrix.scatter_add_(1, low.unsqueeze(1), 1 - share)
        matrix.scatter_add_(1, (low + 1).clamp_max(side - 1).unsqueeze(1), share)
        return matrix.to(device)
