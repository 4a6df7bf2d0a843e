"""Low-pass filters of StyleGAN3: their design, and resampling by them as products with matrices.

Every layer of an alias-free generator is an operation on a continuous signal that its samples stand for. What keeps
that true are low-pass filters designed for each layer's cutoff and transition band, windowed by a Kaiser window
(Karras et al., Alias-Free Generative Adversarial Networks, 2021, section 3 and appendix C, https://arxiv.org/abs/2106.12423).
"""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch

EIGENVALUE = 1e-7  # of the largest: terms of a radial filter below it are below float32's rounding


def kaiser_window(taps: int, width: float) -> np.ndarray:
    """Return the window, (taps,) float64, of a filter whose transition is `width` wide.

    `width` is a share of half the sampling rate. Kaiser's formulas for the attenuation that so many taps reach, in dB,
    and for the window's parameter that gives it; the same as scipy's kaiser_atten and kaiser_beta.
    """
    attenuation = 2.285 * (taps - 1) * math.pi * width + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation > 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    else:
        beta = 0.0
    return np.kaiser(taps, beta)


def lowpass_filter(taps: int, cutoff: float, half_width: float, rate: float, radial: bool = False) -> torch.Tensor:
    """Return a low-pass filter of sum 1, (taps,) float32, or (taps, taps) if `radial`.

    The ideal response is a sinc, or for a rotationally symmetric one the jinc, J1(2 pi fc r) / (pi r) with `fc` the
    cutoff; it is multiplied by a Kaiser window (by the window's outer product with itself).

    Args:
        taps: how many; even, so that a jinc is never asked for at its centre.
        cutoff: the frequency at which half of the amplitude passes, in cycles per unit length, as all below.
        half_width: half of the transition band.
        rate: samples per unit length.
        radial: whether the response depends on the direction of a frequency (Karras et al. 2021, appendix C).
    """
    window = kaiser_window(taps, 2 * half_width / (rate / 2))
    place = (np.arange(taps) - (taps - 1) / 2) / rate
    if radial:
        distance = np.hypot(*np.meshgrid(place, place))
        bessel = torch.special.bessel_j1(torch.from_numpy(2 * math.pi * cutoff * distance)).numpy()
        response = bessel / (math.pi * distance) * np.outer(window, window)
    else:
        response = np.sinc(2 * cutoff * place) * window
    return torch.from_numpy(response / response.sum()).to(torch.float32)


def separable_terms(filter: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two (terms, taps) whose outer products, row by row, add up to the 2-D filter.

    A filter (taps,) stands for its outer product with itself and is one term. A radial one is symmetric, so its
    eigenvectors are the terms; of twelve, four to five are above rounding.
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

    def windows(self, side: int) -> list[tuple[slice, slice, slice]]:
        """Return the output cut into parts of about `side`, with the samples between and of the input each needs."""
        count = max(1, round(self.size_out / side))
        edges = [self.size_out * k // count for k in range(count + 1)]
        cuts = []
        for first, end in pairwise(edges):
            start, stop = first * self.down, (end - 1) * self.down + self.down_taps
            lowest = max(0, -((self.padding[0] - start) // self.up))
            highest = min(self.size_in, (stop + self.up_taps - 2 - self.padding[0]) // self.up + 1)
            cuts.append((slice(first, end), slice(start, stop), slice(lowest, highest)))
        return cuts


@dataclass(frozen=True)
class Resampler:
    """The matrices of a way up and down.

    Attributes:
        sampling: its sizes.
        up: (size_between, size_in), with the gain that makes up for the zeros between samples.
        rows: (terms, size_out, size_between), what the way down does to each column of an image, term by term.
        columns: (terms, size_out, size_between), what it does to each row.
    """

    sampling: Sampling
    up: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor


def make_resampler(
    sampling: Sampling, up_filter: torch.Tensor, down_filter: torch.Tensor, dtype: torch.dtype
) -> Resampler:
    """Return the matrices for `up_filter` (up_taps,) and `down_filter` (down_taps,) or (down_taps, down_taps)."""
    between, before = sampling.size_between, sampling.padding[0]
    up = band_matrix(up_filter * sampling.up, between, sampling.size_in, 1, sampling.up, before)
    rows, columns = (
        torch.stack([band_matrix(term, sampling.size_out, between, sampling.down, 1, 0) for term in terms])
        for terms in separable_terms(down_filter)
    )
    return Resampler(sampling, up.to(dtype), rows.to(dtype), columns.to(dtype))
