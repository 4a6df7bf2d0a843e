"""What StyleGAN2's networks are made of: modulated convolution, resampling, and what follows a convolution.

Everything is differentiable twice (R1 and path length need it) and keeps little for the backward pass: an activation
keeps its output alone, a resampling filter nothing, a modulated convolution its unscaled input, which the layer before
keeps anyway. On a CUDA GPU resampling and activations are one Triton kernel each (`stylegan_triton`); elsewhere, and
where a gradient is differentiated again, they are PyTorch's own operations. While torch.compile traces, all is written
as it would be without any of this, as the compiler fuses and recomputes by itself.

Sources: Karras et al. 2020, Analyzing and Improving the Image Quality of StyleGAN (modulation: equations 1-3); Zhang
2019, Making Convolutional Networks Shift-Invariant Again (filtered resampling).
"""

import contextlib
import functools
import math
import subprocess
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

LEAKY_SLOPE = 0.2
LRELU_GAIN = math.sqrt(2)
"""What keeps the variance of a leaky ReLU's output near that of its input."""
DEMODULATION_EPS = 1e-8


def resample_filter() -> torch.Tensor:
    """Return the (4, 4) low-pass filter of all resampling: outer product of (1, 3, 3, 1) with itself, summing to 1."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) / 64


# Kernels


def kernels_for(x: torch.Tensor) -> Any:
    """Return the module of kernels if they work on `x`, else None: it is elsewhere, or lies in memory in other ways."""
    if not x.is_cuda or x.dtype not in (torch.float16, torch.bfloat16, torch.float32) or x.numel() == 0:
        return None
    if not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
        return None
    return working_kernels(x.device)


@functools.cache
def working_kernels(device: torch.device) -> Any:
    """Return the module of kernels if Triton is there and one of them runs on `device`, else None and a warning."""
    try:
        import triton

        import stylegan_triton

        stylegan_triton.activation(torch.ones(1, 1, 1, 1, device=device), None, None, None, None, (1.0, 1.0, None))
        return stylegan_triton
    except ImportError as error:
        reason = str(error)
    except (triton.TritonError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    warnings.warn(f"Triton does not work here ({reason}): slower operations are used instead", stacklevel=2)
    return None


# Resampling


class Resample(torch.autograd.Function):
    """A correlation of every channel with one 4 x 4 filter, or its adjoint; linear, so the filter alone is kept."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, taps: torch.Tensor, stride: int, padding: int, transposed: bool
    ) -> torch.Tensor:
        """Return `x` filtered; `transposed` spreads each pixel by the filter instead, as conv_transpose2d does."""
        ctx.save_for_backward(taps)
        ctx.how = stride, padding, transposed
        kernels = kernels_for(x)
        resampled = convolved if kernels is None else kernels.resample
        return resampled(x, taps, stride, padding, transposed)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the adjoint filter of `gradient`."""
        stride, padding, transposed = ctx.how
        (taps,) = ctx.saved_tensors
        return resample(gradient, taps, stride, padding, not transposed), None, None, None, None


def convolved(x: torch.Tensor, taps: torch.Tensor, stride: int, padding: int, transposed: bool) -> torch.Tensor:
    """Return what `Resample` does, by a convolution of each channel."""
    if transposed and stride == 1:  # a plain correlation by the turned filter, for which backends are quicker
        taps, padding, transposed = taps.flip(0, 1), taps.shape[0] - 1 - padding, False
    channels = x.shape[1]
    weight = taps.to(x.dtype).expand(channels, 1, *taps.shape)
    convolution = F.conv_transpose2d if transposed else F.conv2d
    return convolution(x, weight, stride=stride, padding=padding, groups=channels)


def resample(x: torch.Tensor, taps: torch.Tensor, stride: int, padding: int, transposed: bool) -> torch.Tensor:
    """Return `x` (N, C, H, W) correlated with `taps` (4, 4), each channel by itself; `transposed`, spread by them."""
    chosen = convolved if torch.compiler.is_compiling() else Resample.apply
    return chosen(x, taps, stride, padding, transposed)


def upsample2(x: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """Return `x` (N, C, H, W) at twice its size, (N, C, 2 H, 2 W): zeros between the pixels, low-passed, gain 4."""
    return resample(x, taps * 4, 2, 1, True)


def downsample2(x: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """Return `x` (N, C, H, W) low-passed at half its size, (N, C, H / 2, W / 2); H and W are even."""
    return resample(x, taps, 2, 1, False)


def conv2d_up2(x: torch.Tensor, weight: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """Return `x` (N, I, H, W) convolved by `weight` (O, I, 3, 3) onto twice its size and low-passed, (N, O, 2 H, 2 W).

    Two steps, a transposed convolution and the filter: a quarter of the multiplications of the single 6 x 6 kernel that
    they could be composed into.
    """
    spread = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)  # (N, O, 2 H + 1, 2 W + 1)
    return resample(spread, taps * 4, 1, 1, False)


def conv2d_down2(
    x: torch.Tensor, weight: torch.Tensor, taps: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Return `x` (N, I, H, W) low-passed and convolved by `weight` onto half its size, (N, O, H / 2, W / 2).

    A 3 x 3 kernel strides over the filtered image; a 1 x 1 kernel comes after the filter has halved it.
    """
    if weight.shape[-1] == 1:
        return F.conv2d(downsample2(x, taps), weight, bias)
    low = resample(x, taps, 1, 2, False)  # (N, I, H + 1, W + 1)
    with recomputed(low, lambda kept: resample(kept, taps, 1, 2, False), x):
        return F.conv2d(low, weight, bias, stride=2)


# Keeping little


@contextlib.contextmanager
def recomputed(product: torch.Tensor, again: Any, *sources: torch.Tensor) -> Iterator[None]:
    """Within it, an operation that would keep `product` for its backward pass keeps `sources` and computes it again.

    `again(*sources)` must give the same numbers; it is called without gradients. Gradients of gradients are unaffected:
    autograd itself still knows how `product` came about.
    """
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and product.requires_grad):
        yield
        return
    place, kept = product.data_ptr(), tuple(source.detach() for source in sources)

    def pack(tensor: torch.Tensor) -> torch.Tensor | None:
        return None if tensor.data_ptr() == place else tensor

    def unpack(tensor: torch.Tensor | None) -> torch.Tensor:
        if tensor is not None:
            return tensor
        with torch.no_grad():
            return again(*kept)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


# Modulated convolution


def demodulation(weight: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
    """Return (N, O) what brings each output of a modulated convolution back to unit variance.

    That is 1 / sqrt(sum over i and the kernel of (weight[o, i] * styles[n, i])^2) (Karras et al. 2020, equation 3), as
    one small matrix product.

    Args:
        weight: (O, I, k, k).
        styles: (N, I).
    """
    return (styles.square() @ weight.square().sum((2, 3)).t() + DEMODULATION_EPS).rsqrt()


def modulated_conv2d(
    x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor, taps: torch.Tensor | None = None, fused: bool = False
) -> torch.Tensor:
    """Return (N, O, H, W) each image of `x` convolved by `weight` with input channels scaled by its style.

    Unless `fused`, the input is scaled and all images share one convolution (equal by linearity); fused scales the
    weight, so that each image has its own, as groups of one convolution. Measured: docs/decisions/0011.

    Args:
        x: (N, I, H, W).
        weight: (O, I, k, k), k odd.
        styles: (N, I).
        taps: the filter, to convolve onto twice the size; None for the same size.
        fused: which of the two.
    """
    weight, styles = weight.to(x.dtype), styles.to(x.dtype)
    if fused:
        return grouped_conv2d(x, weight * styles[:, None, :, None, None], taps)
    scaled = x * styles[:, :, None, None]
    with recomputed(scaled, lambda kept, scale: kept * scale[:, :, None, None], x, styles):
        if taps is None:
            return F.conv2d(scaled, weight, padding=weight.shape[-1] // 2)
        spread = F.conv_transpose2d(scaled, weight.transpose(0, 1), stride=2)
    return resample(spread, taps * 4, 1, 1, False)


def grouped_conv2d(x: torch.Tensor, weights: torch.Tensor, taps: torch.Tensor | None) -> torch.Tensor:
    """Return each image of `x` (N, I, H, W) convolved by its own weights (N, O, I, k, k), as modulated_conv2d does."""
    count, outputs, inputs, size, _ = weights.shape
    one = x.reshape(1, count * inputs, *x.shape[2:])
    if taps is None:
        y = F.conv2d(one, weights.reshape(count * outputs, inputs, size, size), padding=size // 2, groups=count)
        return y.reshape(count, outputs, *x.shape[2:])
    transposed = weights.transpose(1, 2).reshape(count * inputs, outputs, size, size)
    y = F.conv_transpose2d(one, transposed, stride=2, groups=count)
    return resample(y.reshape(count, outputs, *y.shape[2:]), taps * 4, 1, 1, False)


# What follows a convolution


class Activation(torch.autograd.Function):
    """clamp(gain * lrelu(x * scale + noise * strength + bias)), in place of `x`, of which its output alone is kept.

    That suffices: leaky ReLU is invertible, where it is clamped no gradient flows, and for the gradient of the scale
    lrelu(v) = lrelu'(v) v turns the sum over the input into one over the output.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        scale: torch.Tensor | None,
        noise: torch.Tensor | None,
        strength: torch.Tensor | None,
        bias: torch.Tensor | None,
        how: tuple[float, float, float | None],
    ) -> torch.Tensor:
        """Overwrite `x` and return it; `how` is slope, gain and clamp."""
        ctx.how = how
        ctx.mark_dirty(x)
        kernels = kernels_for(x)
        if kernels is None:
            activated(x, scale, noise, strength, bias, how, in_place=True)
        else:
            kernels.activation(x, scale, noise, strength, bias, how)
        ctx.save_for_backward(x, scale, noise, strength, bias)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of x, scale, strength and bias; noise has none."""
        y, scale, noise, strength, bias = ctx.saved_tensors
        kernels = None if torch.is_grad_enabled() else kernels_for(y)
        gradients = activation_gradients if kernels is None else kernels.activation_gradients
        return *gradients(gradient, y, scale, noise, strength, bias, ctx.how, ctx.needs_input_grad), None


def activated(
    x: torch.Tensor,
    scale: torch.Tensor | None,
    noise: torch.Tensor | None,
    strength: torch.Tensor | None,
    bias: torch.Tensor | None,
    how: tuple[float, float, float | None],
    in_place: bool = False,
) -> torch.Tensor:
    """Return clamp(gain * lrelu(x * scale + noise * strength + bias)); gain > 0 commutes with lrelu."""
    slope, gain, clamp = how
    place = x if in_place else None
    if scale is not None:
        x = torch.mul(x, (scale * gain).to(x.dtype)[:, :, None, None], out=place)
    elif gain != 1:
        x = torch.mul(x, gain, out=place)
    if noise is not None and strength is not None:
        x = torch.add(x, (noise * (strength * gain)).to(x.dtype), out=place)
    if bias is not None:
        x = torch.add(x, (bias * gain).to(x.dtype)[:, None, None], out=place)
    if slope != 1:
        x = F.leaky_relu(x, slope, inplace=in_place)
    return x if clamp is None else F.hardtanh(x, -clamp, clamp, inplace=in_place)


def activation_gradients(
    gradient: torch.Tensor,
    y: torch.Tensor,
    scale: torch.Tensor | None,
    noise: torch.Tensor | None,
    strength: torch.Tensor | None,
    bias: torch.Tensor | None,
    how: tuple[float, float, float | None],
    needed: tuple[bool, ...],
) -> tuple[torch.Tensor | None, ...]:
    """Return the gradients of x, scale, noise (None), strength and bias, from the output `y`; differentiable."""
    slope, gain, clamp = how
    wide = torch.promote_types(y.dtype, torch.float32)  # sums over an image do not fit half precision
    unclamped = gradient if clamp is None else torch.ops.aten.hardtanh_backward(gradient, y, -clamp, clamp)
    inner = unclamped if slope == 1 else torch.ops.aten.leaky_relu_backward(unclamped, y, slope, True)
    by_x = by_scale = by_strength = by_bias = None
    if scale is not None and needed[1]:
        by_scale = (unclamped * y).sum((2, 3), dtype=wide)  # (N, C): of inner * gain * (x * scale + noise + bias)
    if bias is not None and (needed[4] or by_scale is not None):
        per_channel = inner.sum((2, 3), dtype=wide) * gain  # (N, C)
        by_bias = per_channel.sum(0).to(bias.dtype)
        by_scale = None if by_scale is None else by_scale - per_channel * bias
    if noise is not None and strength is not None and (needed[3] or by_scale is not None):
        noisy = (inner * noise.to(y.dtype)).sum((2, 3), dtype=wide) * gain  # (N, C)
        by_strength = noisy.sum().to(strength.dtype)
        by_scale = None if by_scale is None else by_scale - noisy * strength
    if scale is not None and by_scale is not None:
        by_scale = (by_scale / scale).to(scale.dtype)
    place = None if torch.is_grad_enabled() or inner is gradient else inner  # what nothing needs again
    if needed[0] and scale is not None:
        by_x = torch.mul(inner, (scale * gain).to(y.dtype)[:, :, None, None], out=place)
    elif needed[0]:
        by_x = torch.mul(inner, gain, out=place) if gain != 1 else inner
    return by_x, by_scale, None, by_strength, by_bias


def activation(
    x: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    scale: torch.Tensor | None = None,
    noise: torch.Tensor | None = None,
    strength: torch.Tensor | None = None,
    slope: float = LEAKY_SLOPE,
    gain: float = LRELU_GAIN,
    clamp: float | None = None,
) -> torch.Tensor:
    """Return clamp(gain * lrelu(x * scale + noise * strength + bias)), which OVERWRITES `x`, as (N, C, H, W).

    Args:
        x: (N, C, H, W), which nothing else keeps: what a convolution or a resampling returned.
        bias: (C,).
        scale: (N, C), not zero: the demodulation.
        noise: (N, 1, H, W) or (1, 1, H, W), into which no gradient flows; goes with `strength`.
        strength: scalar.
        slope: of the leaky ReLU below zero; 1 for none.
        gain: positive.
        clamp: largest magnitude let through; None for no limit.
    """
    if torch.compiler.is_compiling():
        return activated(x, scale, noise, strength, bias, (slope, gain, clamp))
    return Activation.apply(x, scale, noise, strength, bias, (slope, gain, clamp))


# Statistics of a batch


def minibatch_deviation(x: torch.Tensor, group: int, features: int = 1) -> torch.Tensor:
    """Return (N, features, H, W) how far the images of each group differ, alike at every pixel (Karras et al. 2018, 3).

    The standard deviation over a group, averaged over channels and pixels. A group of G images are every N / G-th
    one; G is the largest divisor of N that is not above `group`.

    Args:
        x: (N, C, H, W).
        group: how many images are compared with each other, at most.
        features: into how many sets the channels are split.
    """
    count, channels, height, width = x.shape
    size = next(size for size in range(min(group, count), 0, -1) if count % size == 0)
    grouped = x.reshape(size, count // size, features, channels // features, height, width)
    deviation = ((grouped - grouped.mean(0)).square().mean(0) + 1e-8).sqrt()  # (N / G, F, C / F, H, W)
    return deviation.mean((2, 3, 4)).repeat(size, 1)[:, :, None, None].expand(-1, -1, height, width)
