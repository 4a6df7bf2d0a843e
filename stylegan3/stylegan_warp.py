"""Affine warps of image batches that lose no detail: wavelet x2 up, bilinear sampling, wavelet x2 down.

Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data" (arXiv 2006.06676), appendix B. All
shapes follow from the images' shape and none from the transformation, so nothing here waits for the GPU.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

SYM6 = (
    *(0.0154041093, 0.0034907121, -0.1179901111, -0.0483117426, 0.4910559419, 0.7876411410),
    *(0.3379294217, -0.0726375228, -0.0210602925, 0.0447249018, 0.0017677119, -0.0078007083),
)
"""The low-pass filter of the wavelet sym6; it is orthonormal, so x2 up and x2 down with it undo each other."""

DELAY = 5
"""By how many taps SYM6 delays a signal, to a sixth of a tap; it is not symmetric, so its middle (5.5) is not it."""

BLOCK = 64  # rows of a banded matrix; of 32 to 256, the quickest on a CPU

BEFORE, AFTER = 5, 6  # samples at twice the resolution that the x2 down reads before and after an output's own


def mirrored(index: np.ndarray, size: int) -> np.ndarray:
    """Return `index` folded into 0..`size` - 1 by reflection at the outermost pixels' centres."""
    folded = np.abs(index) % (2 * (size - 1))
    return np.minimum(folded, 2 * (size - 1) - folded)


def upsampling(size: int) -> np.ndarray:
    """Return the (2 `size` - 1, `size`) matrix that puts one sample between each two; the border is reflected."""
    matrix = np.zeros((2 * size - 1, size))
    row, tap = np.meshgrid(np.arange(2 * size - 1), np.arange(len(SYM6)), indexing="ij")
    shifted = row - tap + DELAY
    own = shifted % 2 == 0
    np.add.at(matrix, (row[own], mirrored(shifted[own] // 2, size)), np.sqrt(2) * np.array(SYM6)[tap[own]])
    return matrix


def downsampling(size: int) -> np.ndarray:
    """Return the (`size`, 2 `size` + 10) matrix that undoes the x2 up, for samples with a margin around them."""
    matrix = np.zeros((size, 2 * size - 1 + BEFORE + AFTER))
    for tap, weight in enumerate(SYM6):
        matrix[np.arange(size), 2 * np.arange(size) + tap] = weight / np.sqrt(2)
    return matrix


Band = tuple[tuple[int, int, torch.Tensor], ...]
"""A banded matrix in blocks of `BLOCK` rows: first column that is not 0, column after the last one, and the block."""


def band_of(matrix: np.ndarray, device: torch.device, dtype: torch.dtype) -> Band:
    """Return the blocks of `matrix`."""
    found = []
    for start in range(0, len(matrix), BLOCK):
        rows = matrix[start : start + BLOCK]
        used = np.flatnonzero(rows.any(axis=0))
        first, end = int(used[0]), int(used[-1]) + 1
        found.append((first, end, torch.tensor(rows[:, first:end], dtype=dtype, device=device)))
    return tuple(found)


@lru_cache(maxsize=16)
def bands(size: int, device: torch.device, dtype: torch.dtype) -> tuple[Band, Band, Band, Band]:
    """Return x2 up and its transpose, x2 down and its transpose."""
    up, down = upsampling(size), downsampling(size)
    up_band, up_back, down_band, down_back = (band_of(matrix, device, dtype) for matrix in (up, up.T, down, down.T))
    return up_band, up_back, down_band, down_back


class Filtering(torch.autograd.Function):
    """A banded matrix applied along rows and columns, differentiable any number of times.

    Products of dense blocks take less time than filters: the GEMM of a CPU is fast and its depthwise convolution is
    not. With TF32 allowed they round to 10 bits, as does the float16 of the layers that see the result.
    """

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, band: Band, transposed: Band) -> torch.Tensor:
        """Return `images` (N, C, H, H) times `band` (K, H) from both sides, (N, C, K, K)."""
        ctx.bands = transposed, band
        wide = torch.cat([images[..., first:end] @ block.T for first, end, block in band], dim=3)
        return torch.cat([block @ wide[..., first:end, :] for first, end, block in band], dim=2)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Return the gradient in the images: the transpose, applied."""
        return Filtering.apply(gradients[0], *ctx.bands), None, None


class Sampling(torch.autograd.Function):
    """Bilinear `grid_sample` that reflects at the outermost samples, differentiable in the images any number of times.

    PyTorch's own has a second derivative in its newest releases only. Sampling is linear in the images: its gradient
    is its transpose, and that one's gradient is sampling again. The grid gets no gradient.
    """

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        """Return `images` (N, C, H, W) at `grid` (N, H', W', 2), -1 and 1 being the outermost samples."""
        ctx.save_for_backward(grid)
        ctx.shape = images.shape
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=True)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the gradient in the images."""
        (grid,) = ctx.saved_tensors
        return SamplingTransposed.apply(gradients[0], grid, ctx.shape), None


class SamplingTransposed(torch.autograd.Function):
    """The transpose of `Sampling`: puts each sample's value back on the four pixels that it came from."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, grid: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Return `values` (N, C, H', W') gathered on images of `shape` (N, C, H, W)."""
        ctx.save_for_backward(grid)
        images = values.new_zeros(()).expand(shape)  # only its shape is read
        bilinear, reflection, align_corners, wanted = 0, 2, True, [True, False]
        backward = torch.ops.aten.grid_sampler_2d_backward
        return backward(values.contiguous(), images, grid, bilinear, reflection, align_corners, wanted)[0]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Return the gradient in the values."""
        (grid,) = ctx.saved_tensors
        return Sampling.apply(gradients[0], grid), None, None


def sampling_grid(inverse: torch.Tensor, size: int) -> torch.Tensor:
    """Return where the x2 down's samples come from, (N, 2 `size` + 10, 2 `size` + 10, 2), for `Sampling`.

    Args:
        inverse: (N, 2, 3), from a pixel of the output to its place in the input, both (x, y) in pixels from the centre.
        size: the images' height and width.

    Sums and products one by one: a matrix product may run in TF32, whose rounding moves a pixel by a quarter.
    """
    count = 2 * size - 1 + BEFORE + AFTER
    place = (torch.arange(count, device=inverse.device, dtype=inverse.dtype) - BEFORE - (size - 1)) / 2
    scaled = inverse * (2 / (size - 1))
    rows = scaled[:, None, :, 1] * place[:, None] + scaled[:, None, :, 2]  # (N, count, 2)
    columns = scaled[:, None, :, 0] * place[:, None]
    return rows[:, :, None] + columns[:, None]


def warped(images: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """Return `images` (N, C, R, R) under the affine maps whose inverses are `inverse` (N, 2, 3), in the same shape.

    What lies outside an image is its reflection. See `sampling_grid` for the coordinates.
    """
    size = images.shape[-1]
    up, up_back, down, down_back = bands(size, images.device, images.dtype)
    double = Filtering.apply(images, up, up_back)
    samples = Sampling.apply(double, sampling_grid(inverse.to(images.dtype), size))
    return Filtering.apply(samples, down, down_back)
