"""The leaky rectifier of StyleGAN3: up, bent, clamped and down again, without keeping what lies between.

A non-linearity makes frequencies that the sampling rate cannot hold. So the signal is brought to a higher rate, bent
there, and low-pass filtered on its way back (Karras et al. 2021, Alias-Free Generative Adversarial Networks, section
3). The signal between has four to sixteen times the values of the input: it is made part by part, in the machine's
caches, and made once more on the way back, instead of being kept. docs/decisions/0012-stylegan3-filters.md says why
resampling is done by products with matrices.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from stylegan_filters import Resampler

GAIN = math.sqrt(2)
SLOPE = 0.2

CPU_SIDE = 40  # outputs a side that are made at a time: products with longer bands would multiply more zeros
CPU_VALUES = 2**19  # values between that are in memory at a time: they fit a core's cache
GPU_SIDE = 512
GPU_VALUES = 2**27

Part = tuple[slice, tuple[slice, slice, slice], tuple[slice, slice, slice]]


def filtered_lrelu(
    x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, resampler: Resampler, clamp: float | None
) -> torch.Tensor:
    """Return `x * scale + bias`, rectified at a higher rate and brought to the output's, (N, C, size_out, size_out).

    Differentiable twice; only `x`, `scale` and `bias` are kept for it.

    Args:
        x: (N, C, size_in, size_in).
        scale: (N, C).
        bias: (C,).
        resampler: the way up and down, of x's type.
        clamp: the largest magnitude after the rectifier, whose gain is sqrt(2), and before the way down.
    """
    return _FilteredLrelu.apply(x, scale, bias, resampler, clamp)


class _FilteredLrelu(torch.autograd.Function):
    """Values, and by _Slopes their derivatives."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, *how: Any) -> torch.Tensor:
        ctx.save_for_backward(x, scale, bias)
        ctx.how = how
        return _forward(x, scale, bias, *how)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, scale, bias = ctx.saved_tensors
        needs = ctx.needs_input_grad
        slope = _Slopes.apply(gradients[0], x, scale, bias, *ctx.how)  # (N, C, size_in, size_in)
        return (
            slope * scale[:, :, None, None] if needs[0] else None,
            (slope * x).sum((2, 3)) if needs[1] else None,
            slope.sum((0, 2, 3)) if needs[2] else None,
            None,
            None,
        )


class _Slopes(torch.autograd.Function):
    """The gradient of what is rectified: linear in the output's gradient, and otherwise constant almost everywhere."""

    @staticmethod
    def forward(
        ctx: Any, gradient: torch.Tensor, x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, *how: Any
    ) -> torch.Tensor:
        ctx.save_for_backward(x, scale, bias)
        ctx.how = how
        return _backward(gradient, x, scale, bias, *how)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *directions: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, scale, bias = ctx.saved_tensors
        resampler, clamp = ctx.how
        return (_forward(x, scale, bias, resampler, clamp, directions[0]), None, None, None, None, None)


def _forward(
    x: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    resampler: Resampler,
    clamp: float | None,
    direction: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the values, or their derivative in `direction`, a change of what is rectified."""
    side = resampler.sampling.size_out
    output = x.new_empty(*x.shape[:2], side, side)
    flat = output.view(-1, side, side)
    for part in _parts(x, resampler):
        planes, down, across = part
        between = _raised(x, scale, bias, resampler, part)
        if direction is None:
            _bend(between, clamp)
        else:
            between = _bent(_up(direction.flatten(0, 1)[planes, down[2], across[2]], resampler, part), between, clamp)
        rows, columns = _bands(resampler, part)
        lowered = torch.bmm(rows.flatten(0, 1).expand(len(between), -1, -1), between)  # (planes, terms rows, between)
        lowered = lowered.unflatten(1, rows.shape[:2]).transpose(1, 2).flatten(2)  # (planes, rows, terms between)
        across_all = columns.transpose(1, 2).flatten(0, 1)
        flat[planes, down[0], across[0]] = torch.bmm(lowered, across_all.expand(len(between), -1, -1))
    return output.mul_(GAIN)


def _backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    resampler: Resampler,
    clamp: float | None,
) -> torch.Tensor:
    """Return the gradient of what is rectified: the way forward in reverse, every matrix transposed."""
    result = torch.zeros_like(x, memory_format=torch.contiguous_format)
    flat = result.view(-1, *x.shape[2:])
    for part in _parts(x, resampler):
        planes, down, across = part
        outer = gradient.flatten(0, 1)[planes, down[0], across[0]]
        rows, columns = _bands(resampler, part)
        across_all = columns.transpose(0, 1).flatten(1)  # (columns, terms between)
        raised = torch.bmm(outer, across_all.expand(len(outer), -1, -1))
        raised = raised.unflatten(2, (len(rows), -1)).transpose(1, 2).flatten(1, 2)  # (planes, terms rows, between)
        between = torch.bmm(rows.flatten(0, 1).T.expand(len(outer), -1, -1), raised)
        between = _bent(between, _raised(x, scale, bias, resampler, part), clamp)
        left, right = resampler.up[down[1:]].T, resampler.up[across[1:]]
        between = torch.bmm(left.expand(len(outer), -1, -1), between)
        flat[planes, down[2], across[2]] += torch.bmm(between, right.expand(len(outer), -1, -1))
    return result.mul_(GAIN)


def _parts(x: torch.Tensor, resampler: Resampler) -> Iterator[Part]:
    """Yield which planes (of N C) and which windows of rows and columns to do at a time."""
    side, values = (GPU_SIDE, GPU_VALUES) if x.is_cuda else (CPU_SIDE, CPU_VALUES)
    windows = resampler.sampling.windows(side)
    largest = max(between.stop - between.start for _, between, _ in windows)
    planes = max(1, values // largest**2)
    for first in range(0, x.shape[0] * x.shape[1], planes):
        for down in windows:
            for across in windows:
                yield slice(first, first + planes), down, across


def _raised(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, resampler: Resampler, part: Part) -> torch.Tensor:
    """Return the part of `x * scale + bias` at the high rate, (planes, rows, columns)."""
    planes, down, across = part
    factor = scale.flatten()[planes, None, None]
    offset = bias.repeat(len(x))[planes, None, None]
    return _up(torch.addcmul(offset, x.flatten(0, 1)[planes, down[2], across[2]], factor), resampler, part)


def _up(inner: torch.Tensor, resampler: Resampler, part: Part) -> torch.Tensor:
    """Return `inner`, (planes, rows, columns), at the high rate."""
    _, down, across = part
    left, right = resampler.up[down[1:]], resampler.up[across[1:]].T
    raised = torch.bmm(left.expand(len(inner), -1, -1), inner)
    return torch.bmm(raised, right.expand(len(inner), -1, -1))


def _bands(resampler: Resampler, part: Part) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the part's rows and columns of the way down, (terms, out, between) each."""
    _, down, across = part
    return resampler.rows[:, *down[:2]], resampler.columns[:, *across[:2]]


def _bend(z: torch.Tensor, clamp: float | None) -> None:
    """Rectify and clamp `z` in place; the gain comes after the way down, which is linear."""
    torch.nn.functional.leaky_relu_(z, SLOPE)
    if clamp is not None:
        z.clamp_(-clamp / GAIN, clamp / GAIN)


def _bent(change: torch.Tensor, z: torch.Tensor, clamp: float | None) -> torch.Tensor:
    """Return what _bend makes of a small `change` of `z`."""
    change = torch.ops.aten.leaky_relu_backward(change, z, SLOPE, False)
    if clamp is not None:
        change = torch.ops.aten.hardtanh_backward(change, z, -clamp / GAIN / SLOPE, clamp / GAIN)
    return change
