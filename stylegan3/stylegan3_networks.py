"""StyleGAN3's generators: signals that move and (-r) turn with the objects in them, as no layer aliases.

Karras et al. 2021, Alias-Free Generative Adversarial Networks, https://arxiv.org/abs/2106.12423: the layers of section
3 and figure 4, filters of appendix C, Fourier features and their transform of appendix F. Names and shapes of tensors
are those of published networks, so that such can be read.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from stylegan_filtered_lrelu import filtered_lrelu
from stylegan_filters import lowpass_filter
from stylegan_mapping import Linear, MappingNetwork
from stylegan_ops import demodulation, recomputed
from stylegan_resampling import Resampler, Sampling, make_resampler

NUM_LAYERS = 14  # and one to colours
NUM_CRITICAL = 2  # layers at the end whose cutoff is the image's own
FIRST_CUTOFF = 2.0  # cycles per image, as all frequencies below
FIRST_STOPBAND = 2**2.1
LAST_STOPBAND = 2**0.3  # of the last cutoff
MARGIN = 10  # samples beyond each border that layers see, so that what comes into the image has somewhere to come from
UP = 2  # how far above its output's rate a layer bends
TAPS = 6  # of a filter, for each factor of its resampling
OUTPUT_SCALE = 0.25


@dataclass(frozen=True)
class Signal:
    """What comes out of a layer.

    Attributes:
        cutoff: its highest frequency.
        half_width: half of the transition band of the filters that keep it there.
        rate: samples across the image.
        size: samples a side, with those beyond the borders.
        channels: how many.
    """

    cutoff: float
    half_width: float
    rate: int
    size: int
    channels: int


def schedule(resolution: int, channels: int, channel_base: int, channel_max: int) -> list[Signal]:
    """Return what comes out of each of the layers, the last of which are the colours.

    Cutoffs and stopbands rise geometrically from the first layer's to the critical ones'; a layer's rate is the power
    of two that holds its stopband, its width is inverse to its cutoff (Karras et al. 2021, section 3.3 and figure 4c).
    """
    last_cutoff = resolution / 2
    signals = []
    for i in range(NUM_LAYERS + 1):
        share = min(i / (NUM_LAYERS - NUM_CRITICAL), 1)
        cutoff = FIRST_CUTOFF * (last_cutoff / FIRST_CUTOFF) ** share
        stopband = FIRST_STOPBAND * (last_cutoff * LAST_STOPBAND / FIRST_STOPBAND) ** share
        rate = 2 ** math.ceil(math.log2(min(2 * stopband, resolution)))
        width = max(1, round(min(channel_base / 2 / cutoff, channel_max)))
        size = rate + 2 * MARGIN if i < NUM_LAYERS - 1 else resolution
        signals.append(Signal(cutoff, max(stopband, rate / 2) - cutoff, rate, size, width))
    return [*signals[:-1], Signal(**(vars(signals[-1]) | {"channels": channels}))]


class FourierInput(torch.nn.Module):
    """Waves of random frequency, shifted and turned by w, and mixed: a signal that is known everywhere on the plane."""

    freqs: torch.Tensor
    phases: torch.Tensor
    transform: torch.Tensor

    def __init__(self, w_dim: int, signal: Signal):
        super().__init__()
        self.signal = signal
        channels = signal.channels
        directions = torch.randn(channels, 2)
        radius = directions.norm(dim=1, keepdim=True)
        # to within a disc whose radius is about the cutoff, of nearly even density
        freqs = directions / (radius * radius.square().exp().pow(0.25)) * signal.cutoff
        phases = torch.rand(channels) - 0.5
        self.weight = torch.nn.Parameter(torch.randn(channels, channels))
        self.affine = Linear(w_dim, 4)
        with torch.no_grad():
            self.affine.weight.zero_()
            self.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", freqs)
        self.register_buffer("phases", phases)

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        """Return (N, C, size, size) for `w` (N, w_dim).

        w gives a rotation (cosine, sine, normalised) and a translation of the plane; the buffer `transform` (3, 3) is
        one more, applied to points before those: the inverse of how the image is to be moved, in image widths.
        Waves that a transform brings beyond the sampling rate fade out.
        """
        moved = self.motion(w) @ self.transform  # (N, 3, 3)
        freqs = self.freqs @ moved[:, :2, :2]  # (N, C, 2)
        phases = self.phases + (self.freqs @ moved[:, :2, 2:]).squeeze(2)  # (N, C)
        fade = 1 - (freqs.norm(dim=2) - self.signal.cutoff) / (self.signal.rate / 2 - self.signal.cutoff)
        half = self.signal.size / self.signal.rate / 2
        place = (torch.arange(self.signal.size, device=w.device) + 0.5).to(w.dtype) / self.signal.rate - half
        # turns at (row y, column x): the x-part and the y-part of frequencies add up
        turns = freqs[:, :, None, None, 0] * place + freqs[:, :, None, None, 1] * place[:, None]
        waves = torch.sin(2 * math.pi * (turns + phases[:, :, None, None])) * fade.clamp(0, 1)[:, :, None, None]
        mixing = self.weight / math.sqrt(self.weight.shape[1])
        return (mixing @ waves.flatten(2)).unflatten(2, waves.shape[2:])

    def motion(self, w: torch.Tensor) -> torch.Tensor:
        """Return (N, 3, 3): the rotation that each w asks for times its translation (appendix F)."""
        told = self.affine(w)
        cosine, sine, right, down = (told / told[:, :2].norm(dim=1, keepdim=True)).unbind(1)
        zero, one = torch.zeros_like(sine), torch.ones_like(sine)
        turned = torch.stack([cosine, -sine, zero, sine, cosine, zero, zero, zero, one], 1).view(-1, 3, 3)
        shifted = torch.stack([one, zero, -right, zero, one, -down, zero, zero, one], 1).view(-1, 3, 3)
        return turned @ shifted


class FilteredLayer(torch.nn.Module):
    """A modulated convolution, and a leaky ReLU that does not alias."""

    magnitude_ema: torch.Tensor
    up_filter: torch.Tensor
    down_filter: torch.Tensor

    def __init__(
        self, w_dim: int, before: Signal, after: Signal, kernel: int, radial: bool, half: bool, clamp: float | None
    ):
        super().__init__()
        self.in_half, self.clamp, self.magnitude_beta = half, clamp, 0.999
        self.affine = Linear(w_dim, before.channels, bias=1)
        self.weight = torch.nn.Parameter(torch.randn(after.channels, before.channels, kernel, kernel))
        self.bias = torch.nn.Parameter(torch.zeros(after.channels))
        self.register_buffer("magnitude_ema", torch.ones(()))
        high = max(before.rate, after.rate) * UP
        up, down = high // before.rate, high // after.rate
        size = before.size + kernel - 1
        self.sampling = Sampling(size, after.size, up, down, TAPS * up, TAPS * down)
        up_filter = lowpass_filter(TAPS * up, before.cutoff, before.half_width, high)
        self.register_buffer("up_filter", up_filter)
        down_filter = lowpass_filter(TAPS * down, after.cutoff, after.half_width, high, radial)
        self.register_buffer("down_filter", down_filter)
        self.made: tuple[Any, Resampler] | None = None

    def forward(self, x: torch.Tensor, w: torch.Tensor, update_averages: bool = False) -> torch.Tensor:
        """Return (N, C_out, size, size) for `x` (N, C_in, size, size) and `w` (N, w_dim)."""
        gain = magnitude_gain(self, x, update_averages)
        # Demodulation undoes both: weights of norm 1 and styles of mean square 1 keep half precision within its range.
        # The styles' mean is each image's own, so that no image depends on its batch.
        weight = self.weight * self.weight.square().sum((1, 2, 3), keepdim=True).rsqrt()
        styles = self.affine(w)
        styles = styles * styles.square().mean(1, keepdim=True).rsqrt()
        scale = demodulation(weight, styles).to(x.dtype)
        y = modulated_conv2d_full(x, weight, styles * gain)
        return filtered_lrelu(y, scale, self.bias.to(x.dtype), self.resampler(x.dtype), self.clamp)

    def resampler(self, dtype: torch.dtype) -> Resampler:
        """Return the ways up and down by the filters as they are now."""
        up, down = self.up_filter, self.down_filter
        if up.is_inference() or down.is_inference():  # these do not tell when they are written to
            return make_resampler(self.sampling, up, down, dtype)
        state = (dtype, up.device, up.data_ptr(), up._version, down.data_ptr(), down._version)
        if self.made is None or self.made[0] != state:
            self.made = state, make_resampler(self.sampling, up, down, dtype)
        return self.made[1]


class ToColors(torch.nn.Module):
    """A modulated 1 x 1 convolution to colours, not demodulated."""

    magnitude_ema: torch.Tensor

    def __init__(self, w_dim: int, before: Signal, after: Signal, half: bool, clamp: float | None):
        super().__init__()
        self.in_half, self.clamp, self.magnitude_beta = half, clamp, 0.999
        self.affine = Linear(w_dim, before.channels, bias=1)
        self.weight = torch.nn.Parameter(torch.randn(after.channels, before.channels, 1, 1))
        self.bias = torch.nn.Parameter(torch.zeros(after.channels))
        self.register_buffer("magnitude_ema", torch.ones(()))

    def forward(self, x: torch.Tensor, w: torch.Tensor, update_averages: bool = False) -> torch.Tensor:
        """Return (N, colours, R, R) for `x` (N, C, R, R) and `w` (N, w_dim)."""
        gain = magnitude_gain(self, x, update_averages)
        styles = self.affine(w) / math.sqrt(self.weight.shape[1])
        y = modulated_conv2d_full(x, self.weight, styles * gain) + self.bias.to(x.dtype)[:, None, None]
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)


def magnitude_gain(layer: FilteredLayer | ToColors, x: torch.Tensor, update_averages: bool) -> torch.Tensor:
    """Return (), what scales a layer's input to a mean square of 1, by the average over training of it.

    It stands for the normalisation that demodulation's assumption of unit variance needs (Karras et al. 2021,
    section 3.2, configuration D). `update_averages` has the average follow this batch.
    """
    if update_averages:
        with torch.no_grad():
            now = x.detach().to(layer.magnitude_ema.dtype).square().mean()
            layer.magnitude_ema.copy_(now.lerp(layer.magnitude_ema, layer.magnitude_beta))
    return layer.magnitude_ema.rsqrt()


def modulated_conv2d_full(x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
    """Return every position at which a kernel touches the image: (N, O, H + k - 1, W + k - 1).

    Args:
        x: (N, I, H, W), whose channels are scaled by their style; it is made again for the backward pass, not kept.
        weight: (O, I, k, k).
        styles: (N, I).
    """
    weight, styles = weight.to(x.dtype), styles.to(x.dtype)
    scaled = x * styles[:, :, None, None]
    with recomputed(scaled, lambda kept, scale: kept * scale[:, :, None, None], x, styles):
        return F.conv2d(scaled, weight, padding=weight.shape[-1] - 1)


class SynthesisNetwork(torch.nn.Module):
    """Intermediate latents to images."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        radial = config["kind"] == "stylegan3-r"
        width = 2 if radial else 1  # without neighbours to look at, a layer of -r has more channels instead
        resolution, clamp = config["resolution"], config["conv_clamp"]
        signals = schedule(
            resolution, config["channels"], width * config["channel_base"], width * config["channel_max"]
        )
        self.half_dtype = torch.float16
        self.num_ws = len(signals) + 1
        self.input = FourierInput(config["w_dim"], signals[0])
        self.names = [f"L{i}_{signal.size}_{signal.channels}" for i, signal in enumerate(signals)]
        for i, (name, after) in enumerate(zip(self.names, signals, strict=True)):
            before = signals[max(i - 1, 0)]
            half = after.rate * 2 ** config["num_fp16_res"] > resolution
            layer: FilteredLayer | ToColors
            if i == NUM_LAYERS:
                layer = ToColors(config["w_dim"], before, after, half, clamp)
            else:
                round_filter = radial and i < NUM_LAYERS - NUM_CRITICAL
                kernel = 1 if radial else 3
                layer = FilteredLayer(config["w_dim"], before, after, kernel, round_filter, half, clamp)
            layer.magnitude_beta = config.get("magnitude_ema_beta", layer.magnitude_beta)
            setattr(self, name, layer)

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
            ws: (N, num_ws, w_dim) what the input and each layer are styled by.
            noise_mode: unused here, as these networks have no noise.
            update_averages: have the averages of magnitudes follow this batch.
            force_fp32: no half precision; there is none on a CPU in any case.
            fused: unused here.
            noise_seeds: unused here.
        """
        full = self.input.weight.dtype
        half = self.half_dtype if ws.is_cuda and not force_fp32 else full
        ws = ws.to(full)
        x = self.input(ws[:, 0])
        for i, name in enumerate(self.names):
            layer: Any = getattr(self, name)
            x = layer(x.to(half if layer.in_half else full), ws[:, i + 1], update_averages)
        return x.to(full) * OUTPUT_SCALE


class StyleGAN3Generator(torch.nn.Module):
    """Latents to images."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.config = dict(config)
        self.z_dim, self.c_dim, self.w_dim = config["z_dim"], config["c_dim"], config["w_dim"]
        self.resolution, self.channels = config["resolution"], config["channels"]
        self.synthesis = SynthesisNetwork(config)
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
