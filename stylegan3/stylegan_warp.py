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

BEFORE, AFTER = 5, 6  # samples at twice the resolution that the x2 down reads before and after an output's own


def mirrored(index: np.ndarray, size: int) -> np.ndarray:
    """Return `index` folded into 0..`size` - 1 by reflection at the outermost pixels' centres."""
    folded = np.abs(index) % (2 * (size - 1))
    return np.minimum(folded, 2 * (size - 1) - folded)


@lru_cache(maxsize=16)
def upsampling(size: int, device: torch.device, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return the (2 `size` - 1, `size`) matrix that puts one sample between each two; the border is reflected."""
    matrix = np.zeros((2 * size - 1, size))
    row, tap = np.meshgrid(np.arange(2 * size - 1), np.arange(len(SYM6)), indexing="ij")
    shifted = row - tap + DELAY
    own = shifted % 2 == 0
    np.add.at(matrix, (row[own], mirrored(shifted[own] // 2, size)), np.sqrt(2) * np.array(SYM6)[tap[own]])
    return torch.tensor(matrix, dtype=dtype, device=device)


@lru_cache(maxsize=16)
def downsampling(size: int, device: torch.device, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return the (`size`, 2 `size` + 10) matrix that undoes the x2 up, for samples with a margin around them."""
    matrix = np.zeros((size, 2 * size - 1 + BEFORE + AFTER))
    for tap, weight in enumerate(SYM6):
        matrix[np.arange(size), 2 * np.arange(size) + tap] = weight / np.sqrt(2)
    return torch.tensor(matrix, dtype=dtype, device=device)


def resampled(images: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Return `images` (N, C, H, H) with `matrix` (K, H) applied along rows and columns, (N, C, K, K).

    The matrices are banded, yet up to 256 pixels a side one dense product takes less time than a filter does, on a CPU
    as well. With TF32 allowed it rounds to 10 bits, as does the float16 of the layers that see the result.
    """
    return matrix @ (images @ matrix.T)


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
    double = resampled(images, upsampling(size, images.device, images.dtype))
    samples = Sampling.apply(double, sampling_grid(inverse.to(images.dtype), size))
    return resampled(samples, downsampling(size, images.device, images.dtype))
