"""StyleGAN3's layers as the paper writes them, one operation at a time; slow, in any precision.

Every image has its own modulated weights, zeros go between samples, filters are plain convolutions in two dimensions.
Written from Karras et al. 2021; what the modules of stylegan3/ are tested and timed against. Tensors are read by name
from a network's state dict.
"""

import math

import torch
import torch.nn.functional as F

Tensors = dict[str, torch.Tensor]


def plane(taps: torch.Tensor) -> torch.Tensor:
    """Return a filter of two dimensions: that of one along both axes, or `taps` itself."""
    return torch.outer(taps, taps) if taps.ndim == 1 else taps


def filtered_lrelu(x, up_taps, down_taps, up, down, padding, clamp):
    """Return (N, C, H', W'): zeros between and around, low-pass, leaky ReLU, clamp, low-pass, every `down`-th kept."""
    count, channels, height, width = x.shape
    spread = x.new_zeros(count, channels, height * up, width * up)
    spread[:, :, ::up, ::up] = x
    spread = F.pad(spread, padding * 2).flatten(0, 1)[:, None]
    raised = F.conv2d(spread, plane(up_taps).flip(0, 1)[None, None] * up**2)
    bent = F.leaky_relu(raised, 0.2) * math.sqrt(2)
    if clamp is not None:
        bent = bent.clamp(-clamp, clamp)
    lowered = F.conv2d(bent, plane(down_taps).flip(0, 1)[None, None])[:, :, ::down, ::down]
    return lowered.unflatten(0, (count, channels)).squeeze(2)


def linear(tensors: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    """Return the equalised layer `name` of `x`."""
    weight = tensors[f"{name}.weight"]
    return x @ weight.T / math.sqrt(weight.shape[1]) + tensors[f"{name}.bias"]


def convolved(x, weight, styles, demodulate, gain):
    """Return each image by its own weights, padded so that every overlap counts; one scale for all styles."""
    if demodulate:
        weight = weight / weight.square().mean((1, 2, 3), keepdim=True).sqrt()
        styles = styles / styles.square().mean().sqrt()
    weights = weight * styles[:, None, :, None, None]
    if demodulate:
        weights = weights / (weights.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
    size = weight.shape[-1]
    return torch.cat(
        [F.conv2d(image[None], own * gain, padding=size - 1) for image, own in zip(x, weights, strict=True)]
    )


def fourier(tensors: Tensors, w: torch.Tensor, size: int, rate: float, bandwidth: float) -> torch.Tensor:
    """Return the input (N, C, size, size), wave by wave."""
    rows = []
    for told in linear(tensors, "synthesis.input.affine", w).detach():
        cosine, sine, right, down = told / told[:2].norm()
        turned = w.new_tensor([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
        shifted = w.new_tensor([[1, 0, -right], [0, 1, -down], [0, 0, 1]])
        matrix = turned @ shifted @ tensors["synthesis.input.transform"]
        place = (torch.arange(size, dtype=w.dtype) - (size - 1) / 2) / rate
        y, x = torch.meshgrid(place, place, indexing="ij")
        points = torch.stack([x, y, torch.ones_like(x)], -1) @ matrix.T  # (size, size, 3)
        waves = []
        for freq, phase in zip(tensors["synthesis.input.freqs"], tensors["synthesis.input.phases"], strict=True):
            beyond = ((freq @ matrix[:2, :2]).norm() - bandwidth) / (rate / 2 - bandwidth)
            waves.append(torch.sin(2 * math.pi * (points[..., :2] @ freq + phase)) * (1 - beyond.clamp(0, 1)))
        weight = tensors["synthesis.input.weight"]
        rows.append(torch.einsum("oi,ihw->ohw", weight / math.sqrt(len(weight)), torch.stack(waves)))
    return torch.stack(rows)


def synthesised(tensors: Tensors, ws: torch.Tensor, signals, clamp: float | None) -> torch.Tensor:
    """Return images of `ws` (N, num_ws, w_dim); `signals` is the schedule."""
    names = sorted({name.split(".")[1] for name in tensors if ".L" in name}, key=lambda n: int(n[1:].split("_")[0]))
    x = fourier(tensors, ws[:, 0], signals[0].size, signals[0].rate, signals[0].cutoff)
    for i, name in enumerate(names):
        own = {key.removeprefix(f"synthesis.{name}."): value for key, value in tensors.items()}
        colours = i == len(names) - 1
        styles = linear(tensors, f"synthesis.{name}.affine", ws[:, i + 1])
        styles = styles / math.sqrt(x.shape[1]) if colours else styles
        x = convolved(x, own["weight"], styles, not colours, own["magnitude_ema"].rsqrt()) + own["bias"][:, None, None]
        if colours:
            x = x if clamp is None else x.clamp(-clamp, clamp)
            continue
        before, after = signals[max(i - 1, 0)], signals[i]
        high = 2 * max(before.rate, after.rate)
        up, down, size = high // before.rate, high // after.rate, x.shape[-1]
        total = (after.size - 1) * down + 1 - size * up + 6 * up + 6 * down - 2
        padding = ((total + up) // 2, total - (total + up) // 2)
        x = filtered_lrelu(x, own["up_filter"], own["down_filter"], up, down, padding, clamp)
    return x * 0.25
