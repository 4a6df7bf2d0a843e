"""StyleGAN2's operations and networks as the papers write them, one operation at a time; slow, in any precision.

Filters are convolutions of their own, every image's weights are modulated, activations are compositions of PyTorch's
own. Written from Karras et al. 2019, 2020 and Zhang 2019; what `stylegan_ops` and the
networks are tested and timed against. Tensors are read by name from a network's state dict.
"""

import math

import torch
import torch.nn.functional as F

Tensors = dict[str, torch.Tensor]


def filtered(x: torch.Tensor, pad: tuple[int, int], gain: float = 1.0, stride: int = 1) -> torch.Tensor:
    """Return `x` padded by `pad` (before, after) on both axes and each channel correlated with the 4 x 4 filter."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype, device=x.device)
    kernel = (torch.outer(taps, taps) / 64 * gain)[None, None].repeat(x.shape[1], 1, 1, 1)
    return F.conv2d(F.pad(x, (*pad, *pad)), kernel, groups=x.shape[1], stride=stride)


def zeros_between(x: torch.Tensor) -> torch.Tensor:
    """Return `x` (N, C, H, W) with a zero after each pixel, (N, C, 2 H, 2 W)."""
    count, channels, height, width = x.shape
    spread = x.new_zeros(count, channels, height, 2, width, 2)
    spread[:, :, :, 0, :, 0] = x
    return spread.reshape(count, channels, 2 * height, 2 * width)


def upsampled(x: torch.Tensor) -> torch.Tensor:
    """Return `x` at twice its size."""
    return filtered(zeros_between(x), (2, 1), gain=4)


def downsampled(x: torch.Tensor) -> torch.Tensor:
    """Return `x` at half its size."""
    return filtered(x, (1, 1), stride=2)


def modulated(x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor, demodulate: bool, up: bool) -> torch.Tensor:
    """Return each image of `x` convolved by its own modulated weight, as groups of one convolution."""
    count, inputs = styles.shape
    outputs, _, size, _ = weight.shape
    own = weight[None] * styles[:, None, :, None, None]  # (N, O, I, k, k)
    if demodulate:
        own = own * (own.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    one = x.reshape(1, count * inputs, *x.shape[2:])
    if up:
        own = own.transpose(1, 2).reshape(count * inputs, outputs, size, size)
        y = F.conv_transpose2d(one, own, stride=2, groups=count)
        return filtered(y.reshape(count, outputs, *y.shape[2:]), (1, 1), gain=4)
    y = F.conv2d(one, own.reshape(count * outputs, inputs, size, size), padding=size // 2, groups=count)
    return y.reshape(count, outputs, *y.shape[2:])


def activated(x: torch.Tensor, gain: float = math.sqrt(2), clamp: float | None = 256) -> torch.Tensor:
    """Return the leaky ReLU of `x`, scaled and clamped."""
    y = F.leaky_relu(x, 0.2) * gain
    return y if clamp is None else y.clamp(-clamp, clamp)


def linear(tensors: Tensors, name: str, x: torch.Tensor, lr_multiplier: float = 1, lrelu: bool = False) -> torch.Tensor:
    """Return a fully connected layer at an equalised learning rate."""
    weight = tensors[f"{name}.weight"]
    y = F.linear(x, weight * (lr_multiplier / math.sqrt(weight.shape[1])), tensors[f"{name}.bias"] * lr_multiplier)
    return activated(y, clamp=None) if lrelu else y


def mapped(tensors: Tensors, z: torch.Tensor | None, c: torch.Tensor | None, name: str = "mapping") -> torch.Tensor:
    """Return w (N, w_dim)."""
    parts = [] if z is None else [z]
    if c is not None:
        parts.append(linear(tensors, f"{name}.embed", c))
    x = torch.cat([part / (part.square().mean(1, keepdim=True) + 1e-8).sqrt() for part in parts], 1)
    i = 0
    while f"{name}.fc{i}.weight" in tensors:
        x = linear(tensors, f"{name}.fc{i}", x, 0.01, True)
        i += 1
    return x


def synthesised(tensors: Tensors, ws: torch.Tensor, noise: str = "const", clamp: float | None = 256) -> torch.Tensor:
    """Return images of `ws` (N, num_ws, w_dim)."""

    def layer(x: torch.Tensor, name: str, w: torch.Tensor, up: bool) -> torch.Tensor:
        styles = linear(tensors, f"{name}.affine", w)
        y = modulated(x, tensors[f"{name}.weight"], styles, True, up)
        if noise == "const":
            y = y + tensors[f"{name}.noise_const"] * tensors[f"{name}.noise_strength"]
        elif noise == "random":
            y = y + torch.randn_like(y[:, :1]) * tensors[f"{name}.noise_strength"]
        return activated(y + tensors[f"{name}.bias"][:, None, None], clamp=clamp)

    x = tensors["synthesis.b4.const"][None].repeat(len(ws), 1, 1, 1)
    image, size, used = None, 4, 0
    while f"synthesis.b{size}.conv1.weight" in tensors:
        block = f"synthesis.b{size}"
        for conv in ("conv0", "conv1")[size == 4 :]:
            x = layer(x, f"{block}.{conv}", ws[:, used], conv == "conv0")
            used += 1
        weight = tensors[f"{block}.torgb.weight"]
        styles = linear(tensors, f"{block}.torgb.affine", ws[:, used]) / math.sqrt(weight.shape[1])
        colours = modulated(x, weight, styles, False, False) + tensors[f"{block}.torgb.bias"][:, None, None]
        colours = colours if clamp is None else colours.clamp(-clamp, clamp)
        image = colours if image is None else upsampled(image) + colours
        size *= 2
    assert image is not None
    return image


def deviation(x: torch.Tensor, group: int) -> torch.Tensor:
    """Return (N, 1, H, W) how far the images of each group differ; the members of a group are N / group apart."""
    count = len(x)
    values = []
    for n in range(count):
        members = torch.stack([x[m] for m in range(count) if m % (count // group) == n % (count // group)])
        values.append((members.var(0, unbiased=False) + 1e-8).sqrt().mean())
    return torch.stack(values)[:, None, None, None].expand(-1, 1, *x.shape[2:])


def judged(
    tensors: Tensors, images: torch.Tensor, c: torch.Tensor | None, group: int, clamp: float | None = 256
) -> torch.Tensor:
    """Return logits (N, 1)."""

    def conv(x: torch.Tensor, name: str, gain: float = 1.0, down: bool = False) -> torch.Tensor:
        weight = tensors[f"{name}.weight"]
        weight = weight / math.sqrt(weight[0].numel())
        padding = weight.shape[-1] // 2
        if down:
            x = F.conv2d(filtered(x, (padding + 1, padding + 1)), weight, stride=2)
        else:
            x = F.conv2d(x, weight, padding=padding)
        if f"{name}.bias" not in tensors:
            return x * gain
        limit = None if clamp is None else clamp * gain
        return activated(x + tensors[f"{name}.bias"][:, None, None], math.sqrt(2) * gain, limit)

    size = images.shape[-1]
    x = conv(images, f"b{size}.fromrgb")
    while size > 4:
        short = conv(x, f"b{size}.skip", math.sqrt(0.5), down=True)
        x = conv(x, f"b{size}.conv0")
        x = short + conv(x, f"b{size}.conv1", math.sqrt(0.5), down=True)
        size //= 2
    x = conv(torch.cat([x, deviation(x, group)], 1), "b4.conv")
    x = linear(tensors, "b4.out", linear(tensors, "b4.fc", x.flatten(1), lrelu=True))
    if c is None:
        return x
    projection = mapped(tensors, None, c)
    return (x * projection).sum(1, keepdim=True) / math.sqrt(projection.shape[1])
