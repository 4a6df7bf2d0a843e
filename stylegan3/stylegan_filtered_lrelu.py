"""The leaky rectifier of StyleGAN3: up, bent, clamped and down again, without keeping what lies between.

A non-linearity makes frequencies that the sampling rate cannot hold. So the signal is brought to a higher rate, bent
there, and low-pass filtered on its way back (Karras et al. 2021, Alias-Free Generative Adversarial Networks, section
3). The signal between has four to sixteen times the values of the input: it is made part by part, in the machine's
caches, and made once more on the way back, instead of being kept.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from stylegan_resampling import Resampler

GAIN = math.sqrt(2)
SLOPE = 0.2


def filtered_lrelu(
    x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, resampler: Resampler, clamp: float | None
) -> torch.Tensor:
    """Return `x * scale + bias`, rectified at a higher rate and brought to the output's, (N, C, size_out, size_out).

    Differentiable twice; only `x`, `scale` and `bias` are kept for it.

    Args:
        x: (N, C, size_in, size_in).
        scale: (N, C).
        bias: (C,).
        resampler: the way up and down, for x's type and device.
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
    changes = None if direction is None else direction.flatten(0, 1)
    for planes, z in _raised(x, scale, bias, resampler):
        if changes is None:
            torch.nn.functional.leaky_relu_(z, SLOPE)
            bent = z if clamp is None else z.clamp_(-clamp / GAIN, clamp / GAIN)
        else:
            bent = _bent(resampler.up(changes[planes]), z, clamp)
        flat[planes] = resampler.down(bent)
    return output.mul_(GAIN)  # the way down is linear, so the gain may come after it


def _backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    resampler: Resampler,
    clamp: float | None,
) -> torch.Tensor:
    """Return the gradient of what is rectified: the way forward in reverse, every step transposed."""
    result = torch.empty_like(x, memory_format=torch.contiguous_format)
    flat, gradients = result.flatten(0, 1), gradient.flatten(0, 1)
    for planes, z in _raised(x, scale, bias, resampler):
        flat[planes] = resampler.up_adjoint(_bent(resampler.down_adjoint(gradients[planes]), z, clamp))
    return result.mul_(GAIN)


def _raised(
    x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, resampler: Resampler
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield which planes of N C, and for them `x * scale + bias` at the high rate, (planes, rows, columns)."""
    flat, factors, offsets = x.flatten(0, 1), scale.flatten()[:, None, None], bias.repeat(len(x))[:, None, None]
    count = resampler.planes()
    for first in range(0, len(flat), count):
        planes = slice(first, first + count)
        yield planes, resampler.up(torch.addcmul(offsets[planes], flat[planes], factors[planes]))


def _bent(change: torch.Tensor, z: torch.Tensor, clamp: float | None) -> torch.Tensor:
    """Return what rectifying and clamping, without the gain, make of a small `change` of `z`."""
    change = torch.ops.aten.leaky_relu_backward(change, z, SLOPE, False)
    if clamp is not None:
        change = torch.ops.aten.hardtanh_backward(change, z, -clamp / GAIN / SLOPE, clamp / GAIN)
    return change
