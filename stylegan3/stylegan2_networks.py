"""StyleGAN2's generator: a constant, convolved up to an image by weights that styles modulate, with noise per pixel.

The 'skip' architecture of Karras et al. 2020, Analyzing and Improving the Image Quality of StyleGAN (figure 7). Names
and shapes of tensors are those of published networks, so that such can be read.
"""

import math
from typing import Any, NamedTuple

import torch

from stylegan_mapping import Linear, MappingNetwork
from stylegan_ops import activation, demodulation, modulated_conv2d, resample_filter, upsample2


def channels_at(resolution: int, channel_base: int, channel_max: int) -> int:
    """Return how many channels features of `resolution` have."""
    return min(channel_base // resolution, channel_max)


def lowest_half_resolution(resolution: int, num_half: int) -> int:
    """Return from which resolution on features are in half precision: the `num_half` highest, but never 4 x 4."""
    return max(2 ** (int(math.log2(resolution)) + 1 - num_half), 8)


def layout_of(device: torch.device, half: bool) -> torch.memory_format:
    """Return the order in memory that convolutions are quickest in: channels last, but for float32 on a GPU."""
    return torch.channels_last if half or device.type == "cpu" else torch.contiguous_format


class Noise(NamedTuple):
    """What is added at each pixel: 'random' numbers, of each image's generator if given, 'const' ones, or 'none'."""

    mode: str
    generators: list[torch.Generator] | None

    def at(self, const: torch.Tensor, count: int) -> torch.Tensor | None:
        """Return (count, 1, H, W) or (1, 1, H, W) noise for a layer whose constant noise is `const` (H, W)."""
        if self.mode == "none":
            return None
        if self.mode == "const":
            return const[None, None]
        shape = (1, *const.shape)
        if self.generators is None:
            return torch.randn((count, *shape), device=const.device, dtype=const.dtype)
        drawn = [torch.randn(shape, generator=generator) for generator in self.generators]
        return torch.stack(drawn).to(const)


class SynthesisLayer(torch.nn.Module):
    """A modulated and demodulated 3 x 3 convolution, noise, bias and leaky ReLU."""

    noise_const: torch.Tensor
    resample_filter: torch.Tensor

    def __init__(self, inputs: int, outputs: int, w_dim: int, resolution: int, up: bool, clamp: float | None):
        super().__init__()
        self.up, self.clamp = up, clamp
        self.affine = Linear(w_dim, inputs, bias=1)
        self.weight = torch.nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.noise_strength = torch.nn.Parameter(torch.zeros(()))
        self.bias = torch.nn.Parameter(torch.zeros(outputs))
        self.register_buffer("resample_filter", resample_filter())
        self.register_buffer("noise_const", torch.randn(resolution, resolution))

    def forward(self, x: torch.Tensor, w: torch.Tensor, noise: Noise, fused: bool) -> torch.Tensor:
        """Return (N, outputs, H, W) for `x` (N, inputs, H, W), or with twice the size if this layer goes up."""
        styles: torch.Tensor = self.affine(w)
        weight: torch.Tensor = self.weight
        if x.dtype in (torch.float16, torch.bfloat16):  # demodulation undoes both; without, half precision overflows
            weight = weight / (weight.abs().amax((1, 2, 3), keepdim=True) * math.sqrt(weight[0].numel()))
            styles = styles / styles.abs().amax(1, keepdim=True)
        y = modulated_conv2d(x, weight, styles, self.resample_filter if self.up else None, fused)
        drawn = noise.at(self.noise_const, len(x))
        strength = None if drawn is None else self.noise_strength
        scale = demodulation(weight, styles)
        return activation(y, self.bias, scale=scale, noise=drawn, strength=strength, clamp=self.clamp)


class ToRGB(torch.nn.Module):
    """A modulated 1 x 1 convolution to colours, not demodulated."""

    def __init__(self, inputs: int, outputs: int, w_dim: int, clamp: float | None):
        super().__init__()
        self.clamp = clamp
        self.affine = Linear(w_dim, inputs, bias=1)
        self.weight = torch.nn.Parameter(torch.randn(outputs, inputs, 1, 1))
        self.bias = torch.nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor, w: torch.Tensor, fused: bool) -> torch.Tensor:
        """Return (N, outputs, H, W) for `x` (N, inputs, H, W)."""
        styles = self.affine(w) / math.sqrt(self.weight.shape[1])
        y = modulated_conv2d(x, self.weight, styles, fused=fused)
        return activation(y, self.bias, slope=1, gain=1, clamp=self.clamp)


class SynthesisBlock(torch.nn.Module):
    """The layers of one resolution, and its part of the image; the first starts from a constant."""

    resample_filter: torch.Tensor

    def __init__(
        self, inputs: int, outputs: int, w_dim: int, resolution: int, colours: int, half: bool, clamp: float | None
    ):
        super().__init__()
        self.in_half = half
        self.register_buffer("resample_filter", resample_filter())
        if inputs == 0:
            self.const = torch.nn.Parameter(torch.randn(outputs, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(inputs, outputs, w_dim, resolution, True, clamp)
        self.conv1 = SynthesisLayer(outputs, outputs, w_dim, resolution, False, clamp)
        self.torgb = ToRGB(outputs, colours, w_dim, clamp)
        self.num_convs = 1 if inputs == 0 else 2

    def forward(
        self,
        x: torch.Tensor | None,
        image: torch.Tensor | None,
        ws: torch.Tensor,
        half_dtype: torch.dtype | None,
        noise: Noise,
        fused: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the features (N, outputs, R, R) and the image so far (N, colours, R, R), never in half precision.

        Args:
            x: features of the resolution below; None in the first block.
            image: image of the resolution below; None in the first block.
            ws: (N, num_convs + 1, w_dim) what each layer and then the colours are styled by.
            half_dtype: which half precision; None to compute in that of the weights.
            noise: where it is from.
            fused: see `modulated_conv2d`.
        """
        full = self.conv1.weight.dtype
        dtype = half_dtype if self.in_half and half_dtype is not None else full
        layout = layout_of(ws.device, dtype != full)
        if x is None:
            x = self.const[None].expand(len(ws), -1, -1, -1).to(dtype=dtype, memory_format=layout, copy=True)
        else:
            x = self.conv0(x.to(dtype=dtype, memory_format=layout), ws[:, 0], noise, fused)
        x = self.conv1(x, ws[:, self.num_convs - 1], noise, fused)
        colours = self.torgb(x, ws[:, self.num_convs], fused).to(full)
        return x, colours if image is None else upsample2(image, self.resample_filter).add_(colours)


class SynthesisNetwork(torch.nn.Module):
    """Intermediate latents to images."""

    def __init__(
        self,
        w_dim: int,
        resolution: int,
        channels: int,
        channel_base: int,
        channel_max: int,
        num_fp16_res: int,
        conv_clamp: float | None,
    ):
        super().__init__()
        self.half_dtype = torch.float16
        self.resolutions = [2**i for i in range(2, int(math.log2(resolution)) + 1)]
        half_from = lowest_half_resolution(resolution, num_fp16_res)
        below = 0
        for size in self.resolutions:
            width = channels_at(size, channel_base, channel_max)
            block = SynthesisBlock(below, width, w_dim, size, channels, size >= half_from, conv_clamp)
            setattr(self, f"b{size}", block)
            below = width
        self.num_ws = 2 * len(self.resolutions)

    def forward(
        self,
        ws: torch.Tensor,
        noise_mode: str = "random",
        update_averages: bool = False,
        force_fp32: bool = False,
        fused: bool | None = None,
        noise_seeds: list[int] | None = None,
    ) -> torch.Tensor:
        """Return images (N, channels, R, R) float32, about -1 to 1.

        Args:
            ws: (N, num_ws, w_dim) what each layer is styled by.
            noise_mode: 'random', 'const' or 'none'.
            update_averages: unused here; StyleGAN3 has averages.
            force_fp32: no half precision; there is none on a CPU in any case.
            fused: whether modulated convolutions scale the weights instead of the input (None: no).
            noise_seeds: one for each image, from which its 'random' noise follows whatever else is in the batch; None
                to draw from the device's generator.
        """
        generators = None
        if noise_seeds is not None:
            generators = [torch.Generator().manual_seed(int(seed)) for seed in noise_seeds]
        noise = Noise(noise_mode, generators)
        half_dtype = self.half_dtype if ws.is_cuda and not force_fp32 else None
        x = image = None
        used = 0
        for size in self.resolutions:
            block: Any = getattr(self, f"b{size}")
            x, image = block(x, image, ws[:, used : used + block.num_convs + 1], half_dtype, noise, bool(fused))
            used += block.num_convs  # the colours share their w with the next block's first layer
        assert image is not None
        return image.contiguous()


class StyleGAN2Generator(torch.nn.Module):
    """Latents to images."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.config = dict(config)
        self.z_dim, self.c_dim, self.w_dim = config["z_dim"], config["c_dim"], config["w_dim"]
        self.resolution, self.channels = config["resolution"], config["channels"]
        names = ("w_dim", "resolution", "channels", "channel_base", "channel_max", "num_fp16_res", "conv_clamp")
        self.synthesis = SynthesisNetwork(**{name: config[name] for name in names})
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(self.z_dim, self.c_dim, self.w_dim, self.num_ws, config["map_depth"])

    def forward(
        self,
        z: torch.Tensor,
        c: torch.Tensor | None = None,
        truncation: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "random",
        update_averages: bool = False,
        **synthesis: Any,
    ) -> torch.Tensor:
        """Return images (N, channels, R, R) float32 of latents `z` (N, z_dim) and labels `c` (N, c_dim) or None."""
        ws = self.mapping(z, c, truncation, truncation_cutoff, update_averages)
        return self.synthesis(ws, noise_mode=noise_mode, update_averages=update_averages, **synthesis)
