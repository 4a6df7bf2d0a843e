"""Triton kernels of `stylegan_ops`: resampling, and what follows a convolution, each in one pass over the tensor.

They compute in float32 whatever the tensors are in, and take them as they lie in memory, channels first or last.
Importing this needs Triton; `stylegan_ops` decides whether to.
"""

import torch
import triton
import triton.language as tl

TILE = 1024  # elements that a program works on at once
TILES = 16  # how many such one after another whose sums it keeps

How = tuple[float, float, float | None]
"""Slope, gain and clamp."""


def tile_of(x: torch.Tensor) -> tuple[int, int]:
    """Return how many pixels and channels of `x` (N, C, H, W) a program works on at once: those that are neighbours."""
    if x.stride(1) != 1 or x.shape[1] == 1:
        return TILE, 1
    channels = min(triton.next_power_of_2(x.shape[1]), 128)
    return TILE // channels, channels


@triton.jit
def _activation(
    x,
    scale,
    noise,
    strength,
    bias,
    channels,
    pixels,
    x_n,
    x_c,
    x_p,
    noise_n,
    slope,
    gain,
    clamp,
    SCALED: tl.constexpr,
    NOISY: tl.constexpr,
    BIASED: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    n = tl.program_id(2).to(tl.int64)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    here = (p < pixels)[:, None] & (c < channels)[None, :]
    place = x + n * x_n + p[:, None] * x_p + c[None, :] * x_c
    value = tl.load(place, mask=here, other=0).to(tl.float32)
    if SCALED:
        value *= tl.load(scale + n * channels + c, mask=c < channels, other=0).to(tl.float32)[None, :]
    if NOISY:
        drawn = tl.load(noise + n * noise_n + p, mask=p < pixels, other=0).to(tl.float32)
        value += (drawn * tl.load(strength).to(tl.float32))[:, None]
    if BIASED:
        value += tl.load(bias + c, mask=c < channels, other=0).to(tl.float32)[None, :]
    value = tl.where(value > 0, value, value * slope) * gain
    value = tl.minimum(tl.maximum(value, -clamp), clamp)
    tl.store(place, value, mask=here)


def activation(
    x: torch.Tensor,
    scale: torch.Tensor | None,
    noise: torch.Tensor | None,
    strength: torch.Tensor | None,
    bias: torch.Tensor | None,
    how: How,
) -> None:
    """Overwrite `x` (N, C, H, W) by clamp(gain * lrelu(x * scale + noise * strength + bias)); see `stylegan_ops`."""
    slope, gain, clamp = how
    count, channels, height, width = x.shape
    pixels = height * width
    block_p, block_c = tile_of(x)
    noise = None if noise is None else noise.contiguous()
    _activation[(triton.cdiv(pixels, block_p), triton.cdiv(channels, block_c), count)](
        x,
        x if scale is None else scale.contiguous(),
        x if noise is None else noise,
        x if strength is None else strength,
        x if bias is None else bias,
        channels,
        pixels,
        x.stride(0),
        x.stride(1),
        x.stride(3),
        pixels if noise is not None and len(noise) > 1 else 0,
        slope,
        gain,
        float("inf") if clamp is None else clamp,
        SCALED=scale is not None,
        NOISY=noise is not None,
        BIASED=bias is not None,
        BLOCK_P=block_p,
        BLOCK_C=block_c,
    )


@triton.jit
def _activation_gradient(
    gradient,
    y,
    by_x,
    sums,
    scale,
    noise,
    channels,
    pixels,
    x_n,
    x_c,
    x_p,
    noise_n,
    parts,
    slope,
    gain,
    clamp,
    SCALED: tl.constexpr,
    NOISY: tl.constexpr,
    SUMMED: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TILES: tl.constexpr,
):
    n = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    factor = tl.zeros([BLOCK_C], tl.float32) + gain
    if SCALED:
        factor *= tl.load(scale + n * channels + c, mask=c < channels, other=0).to(tl.float32)
    inner_sum = tl.zeros([BLOCK_C], tl.float32)
    noisy_sum = tl.zeros([BLOCK_C], tl.float32)
    output_sum = tl.zeros([BLOCK_C], tl.float32)
    for tile in range(TILES):
        p = (tl.program_id(0) * TILES + tile) * BLOCK_P + tl.arange(0, BLOCK_P)
        here = (p < pixels)[:, None] & (c < channels)[None, :]
        place = n * x_n + p[:, None] * x_p + c[None, :] * x_c
        output = tl.load(y + place, mask=here, other=0).to(tl.float32)
        unclamped = tl.load(gradient + place, mask=here, other=0).to(tl.float32)
        unclamped = tl.where(tl.abs(output) < clamp, unclamped, 0.0)
        inner = tl.where(output > 0, unclamped, unclamped * slope)
        tl.store(by_x + place, inner * factor[None, :], mask=here)
        if SUMMED:
            inner_sum += tl.sum(inner, 0)
            output_sum += tl.sum(unclamped * output, 0)
            if NOISY:
                drawn = tl.load(noise + n * noise_n + p, mask=p < pixels, other=0).to(tl.float32)
                noisy_sum += tl.sum(inner * drawn[:, None], 0)
    if SUMMED:
        row = sums + (n * parts + tl.program_id(0)) * 3 * channels + c
        tl.store(row, inner_sum * gain, mask=c < channels)
        tl.store(row + channels, noisy_sum * gain, mask=c < channels)
        tl.store(row + 2 * channels, output_sum, mask=c < channels)


def activation_gradients(
    gradient: torch.Tensor,
    y: torch.Tensor,
    scale: torch.Tensor | None,
    noise: torch.Tensor | None,
    strength: torch.Tensor | None,
    bias: torch.Tensor | None,
    how: How,
    needed: tuple[bool, ...],
) -> tuple[torch.Tensor | None, ...]:
    """Return the gradients of x, scale, noise (None), strength and bias, from the output `y` (N, C, H, W)."""
    slope, gain, clamp = how
    count, channels, height, width = y.shape
    pixels = height * width
    block_p, block_c = tile_of(y)
    tiles = min(TILES, triton.cdiv(pixels, block_p))
    parts = triton.cdiv(pixels, block_p * tiles)
    if gradient.stride() != y.stride():
        gradient = torch.empty_like(y).copy_(gradient)
    by_x = torch.empty_like(y)
    summed = needed[1] or needed[3] or needed[4]
    sums = torch.empty((count, parts, 3, channels) if summed else (0,), dtype=torch.float32, device=y.device)
    noise = None if noise is None else noise.contiguous()
    _activation_gradient[(parts, triton.cdiv(channels, block_c), count)](
        gradient,
        y,
        by_x,
        sums,
        y if scale is None else scale.contiguous(),
        y if noise is None else noise,
        channels,
        pixels,
        y.stride(0),
        y.stride(1),
        y.stride(3),
        pixels if noise is not None and len(noise) > 1 else 0,
        parts,
        slope,
        gain,
        float("inf") if clamp is None else clamp,
        SCALED=scale is not None,
        NOISY=noise is not None,
        SUMMED=summed,
        BLOCK_P=block_p,
        BLOCK_C=block_c,
        TILES=tiles,
    )
    by_scale = by_strength = by_bias = None
    if summed:
        inner, noisy, output = sums.sum(1).unbind(1)  # (N, C) each
        by_bias = None if bias is None else inner.sum(0).to(bias.dtype)
        by_strength = None if strength is None else noisy.sum().to(strength.dtype)
        if scale is not None:
            output = output if bias is None else output - inner * bias
            output = output if strength is None else output - noisy * strength
            by_scale = (output / scale).to(scale.dtype)
    return by_x, by_scale, None, by_strength, by_bias


@triton.jit
def _resample(
    x,
    taps,
    y,
    channels,
    height,
    width,
    out_width,
    out_pixels,
    x_n,
    x_c,
    x_h,
    x_w,
    y_n,
    y_c,
    y_p,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    n = tl.program_id(2).to(tl.int64)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    i, j = p // out_width, p % out_width
    known = (p < out_pixels)[:, None] & (c < channels)[None, :]
    total = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    STEPS: tl.constexpr = 4 // STRIDE if TRANSPOSED else 4  # of the transposed, others fall between the pixels
    for a in tl.static_range(STEPS):
        for b in tl.static_range(STEPS):
            if TRANSPOSED:
                tap_i, tap_j = (i + PADDING) % STRIDE + a * STRIDE, (j + PADDING) % STRIDE + b * STRIDE
                row, col = (i + PADDING - tap_i) // STRIDE, (j + PADDING - tap_j) // STRIDE
                inside = (i + PADDING >= tap_i) & (row < height) & (j + PADDING >= tap_j) & (col < width)
                tap = tl.load(taps + tap_i * 4 + tap_j).to(tl.float32)[:, None]
            else:
                row, col = i * STRIDE - PADDING + a, j * STRIDE - PADDING + b
                inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
                tap = tl.load(taps + a * 4 + b).to(tl.float32)
            place = x + n * x_n + (row * x_h + col * x_w)[:, None] + c[None, :] * x_c
            total += tap * tl.load(place, mask=known & inside[:, None], other=0).to(tl.float32)
    tl.store(y + n * y_n + p[:, None] * y_p + c[None, :] * y_c, total, mask=known)


def resample(x: torch.Tensor, taps: torch.Tensor, stride: int, padding: int, transposed: bool) -> torch.Tensor:
    """Return `x` (N, C, H, W) correlated with the 4 x 4 `taps`, or spread by them; see `stylegan_ops.Resample`."""
    count, channels, height, width = x.shape
    if transposed:
        size = [(length - 1) * stride - 2 * padding + 4 for length in (height, width)]
    else:
        size = [(length + 2 * padding - 4) // stride + 1 for length in (height, width)]
    last = x.stride(1) == 1 and channels > 1
    layout = torch.channels_last if last else torch.contiguous_format
    y = torch.empty((count, channels, *size), dtype=x.dtype, device=x.device, memory_format=layout)
    block_p, block_c = tile_of(y)
    pixels = size[0] * size[1]
    _resample[(triton.cdiv(pixels, block_p), triton.cdiv(channels, block_c), count)](
        x,
        taps.contiguous(),
        y,
        channels,
        height,
        width,
        size[1],
        pixels,
        *x.stride(),
        y.stride(0),
        y.stride(1),
        y.stride(3),
        STRIDE=stride,
        PADDING=padding,
        TRANSPOSED=transposed,
        BLOCK_P=block_p,
        BLOCK_C=block_c,
    )
    return y
