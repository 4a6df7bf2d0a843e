"""StyleGAN3's ways up to a higher sampling rate and down again, and their adjoints, in a way for each device.

On a CPU filters are depthwise convolutions of a few planes, which fit its caches, at a time. On a GPU a way up or down
an axis is a product with a banded matrix. docs/decisions/0012-stylegan3-filters.md has the reasons and the figures.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F

EIGENVALUE = 1e-7  # of the largest: terms of a radial filter below it are below float32's rounding
CPU_PLANES = 16  # or a multiple of it are done at a time: as many as a vector of float32 holds
CPU_VALUES = 2**19  # at the high rate, that are in memory at a time: few enough for a core's cache
GPU_VALUES = 2**27


@dataclass(frozen=True)
class Sampling:
    """Sizes of a layer's way up to the rate at which it is not linear and down again; both axes alike.

    Attributes:
        size_in: samples of the input.
        size_out: samples of the output.
        up: the factor of the way up.
        down: the factor of the way down.
        up_taps: of the filter on the way up.
        down_taps: of the filter on the way down.
    """

    size_in: int
    size_out: int
    up: int
    down: int
    up_taps: int
    down_taps: int

    @cached_property
    def size_between(self) -> int:
        """How many samples the way down reads at the high rate."""
        return (self.size_out - 1) * self.down + self.down_taps

    @cached_property
    def padding(self) -> tuple[int, int]:
        """Zeros before and after the zero-inserted input; negative where it is cropped."""
        total = self.size_between - 1 + self.up_taps - self.size_in * self.up
        before = (total + self.up) // 2
        return before, total - before


class ConvolutionResampler:
    """Ways up and down as depthwise convolutions; planes, (P, rows, columns), are their channels."""

    def __init__(self, sampling: Sampling, up_filter: torch.Tensor, down_filter: torch.Tensor, dtype: torch.dtype):
        self.sampling = sampling
        up_filter, down_filter = up_filter.to(dtype), down_filter.to(dtype)
        along_columns, along_rows = up_filter[None, None, :, None], up_filter[None, None, None]
        self.ups = (along_rows * sampling.up, (1, sampling.up)), (along_columns * sampling.up, (sampling.up, 1))
        if down_filter.ndim == 1:
            taps = down_filter.flip(0)
            self.downs = [(taps[None, None, :, None], (sampling.down, 1)), (taps[None, None, None], (1, sampling.down))]
        else:
            self.downs = [(down_filter.flip(0, 1)[None, None], (sampling.down, sampling.down))]
        reach = (sampling.size_in - 1) * sampling.up + sampling.up_taps  # all that the spread samples touch
        before = sampling.up_taps - 1 - sampling.padding[0]
        self.crop = (-before, sampling.size_between - reach + before) * 2

    def planes(self) -> int:
        """Return how many planes to do at a time."""
        return CPU_PLANES * max(1, CPU_VALUES // (CPU_PLANES * self.sampling.size_between**2))

    def up(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x`, of size_in a side, at the high rate, size_between a side."""
        x = x[None]
        for taps, stride in self.ups:
            kernel = taps.expand(x.shape[1], -1, -1, -1)
            x = F.conv_transpose2d(x, kernel, stride=stride, groups=x.shape[1])
        return F.pad(x, self.crop)[0]

    def up_adjoint(self, z: torch.Tensor) -> torch.Tensor:
        """Return what the transposed matrix of `up` makes of `z`."""
        z = F.pad(z[None], [-side for side in self.crop])
        for taps, stride in reversed(self.ups):
            z = F.conv2d(z, taps.expand(z.shape[1], -1, -1, -1), stride=stride, groups=z.shape[1])
        return z[0]

    def down(self, z: torch.Tensor) -> torch.Tensor:
        """Return `z`, at the high rate, at the output's, size_out a side."""
        z = z[None]
        for taps, stride in self.downs:
            z = F.conv2d(z, taps.expand(z.shape[1], -1, -1, -1), stride=stride, groups=z.shape[1])
        return z[0]

    def down_adjoint(self, y: torch.Tensor) -> torch.Tensor:
        """Return what the transposed matrix of `down` makes of `y`."""
        y = y[None]
        for taps, stride in reversed(self.downs):
            y = F.conv_transpose2d(y, taps.expand(y.shape[1], -1, -1, -1), stride=stride, groups=y.shape[1])
        return y[0]


class MatrixResampler:
    """Ways up and down as products with banded matrices from either side; planes are (P, rows, columns).

    Attributes:
        raising: (size_between, size_in).
        rows: (terms size_out, size_between), what the way down does to each column of an image, term by term.
        columns: (size_out, terms size_between), what it does to each row.
    """

    def __init__(self, sampling: Sampling, up_filter: torch.Tensor, down_filter: torch.Tensor, dtype: torch.dtype):
        self.sampling, between = sampling, sampling.size_between
        taps, shift = up_filter * sampling.up, sampling.padding[0]
        self.raising = band_matrix(taps, between, sampling.size_in, 1, sampling.up, shift).to(dtype)
        rows, columns = (
            [band_matrix(term, sampling.size_out, between, sampling.down, 1, 0) for term in terms]
            for terms in separable_terms(down_filter)
        )
        self.terms, self.rows, self.columns = len(rows), torch.cat(rows).to(dtype), torch.cat(columns, 1).to(dtype)

    def planes(self) -> int:
        """Return how many planes to do at a time."""
        return max(1, GPU_VALUES // (self.terms * self.sampling.size_between**2))

    def up(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x`, of size_in a side, at the high rate, size_between a side."""
        return right_product(left_product(self.raising, x), self.raising.T)

    def up_adjoint(self, z: torch.Tensor) -> torch.Tensor:
        """Return what the transposed matrix of `up` makes of `z`."""
        return right_product(left_product(self.raising.T, z), self.raising)

    def down(self, z: torch.Tensor) -> torch.Tensor:
        """Return `z`, at the high rate, at the output's, size_out a side."""
        lowered = left_product(self.rows, z).unflatten(1, (self.terms, -1))
        return right_product(lowered.transpose(1, 2).flatten(2), self.columns.T)

    def down_adjoint(self, y: torch.Tensor) -> torch.Tensor:
        """Return what the transposed matrix of `down` makes of `y`."""
        raised = right_product(y, self.columns).unflatten(2, (self.terms, -1))
        return left_product(self.rows.T, raised.transpose(1, 2).flatten(1, 2))


Resampler = ConvolutionResampler | MatrixResampler


def make_resampler(
    sampling: Sampling, up_filter: torch.Tensor, down_filter: torch.Tensor, dtype: torch.dtype
) -> Resampler:
    """Return the ways by `up_filter` (up_taps,) and `down_filter` (down_taps,) or (down_taps, down_taps)."""
    kind = MatrixResampler if up_filter.is_cuda else ConvolutionResampler
    return kind(sampling, up_filter, down_filter, dtype)


def left_product(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return matrix x for each plane of `x`."""
    return torch.bmm(matrix.expand(len(x), -1, -1), x)


def right_product(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Return x matrix for each plane of `x`."""
    return torch.bmm(x, matrix.expand(len(x), -1, -1))


def separable_terms(filter: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two (terms, taps) whose outer products, row by row, add up to the 2-D filter.

    A filter (taps,) stands for its outer product with itself and is one term. A radial one is symmetric, so its
    eigenvectors are the terms; of twelve, three to five are above rounding.
    """
    if filter.ndim == 1:
        return filter[None], filter[None]
    values, vectors = torch.linalg.eigh(filter.double().cpu())
    kept = values.abs() > EIGENVALUE * values.abs().max()
    columns = vectors.T[kept]
    rows = columns * values[kept, None]
    return rows.to(filter), columns.to(filter)


def band_matrix(filter: torch.Tensor, rows: int, columns: int, down: int, up: int, shift: int) -> torch.Tensor:
    """Return the matrix (rows, columns) that resamples a signal of `columns` samples to one of `rows`.

    Element [o, i] is the filter's tap `taps - 1 - (i up + shift - o down)`, 0 where there is none: between samples `i`
    lie `up - 1` zeros, `shift` zeros come before the first, the filter is convolved, and every `down`-th value is kept.
    """
    device = filter.device
    place = torch.arange(columns, device=device) * up + shift - torch.arange(rows, device=device)[:, None] * down
    inside = (place >= 0) & (place < len(filter))
    return filter[(len(filter) - 1 - place).clamp(0, len(filter) - 1)] * inside
