"""StyleGAN2's discriminator, which all configurations are trained against.

The 'resnet' architecture of Karras et al. 2020, Analyzing and Improving the Image Quality of StyleGAN (figure 7), with
the projection of labels of Miyato and Koyama 2018, cGANs with Projection Discriminator. Names and shapes of tensors
are those of published networks.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F

from stylegan2_networks import channels_at, layout_of, lowest_half_resolution
from stylegan_mapping import Linear, MappingNetwork
from stylegan_ops import LEAKY_SLOPE, LRELU_GAIN, activation, conv2d_down2, minibatch_deviation, resample_filter


class Conv(torch.nn.Module):
    """A convolution, perhaps onto half the size, and a leaky ReLU if it has a bias; frozen, its tensors are buffers."""

    resample_filter: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        bias: bool = True,
        down: bool = False,
        clamp: float | None = None,
        frozen: bool = False,
    ):
        super().__init__()
        self.down, self.clamp = down, clamp
        self.register_buffer("resample_filter", resample_filter())
        drawn: dict[str, torch.Tensor] = {"weight": torch.randn(outputs, inputs, size, size)}
        if bias:
            drawn["bias"] = torch.zeros(outputs)
        else:
            self.bias = None
        for name, tensor in drawn.items():
            if frozen:
                self.register_buffer(name, tensor)
            else:
                self.register_parameter(name, torch.nn.Parameter(tensor))

    def forward(self, x: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
        """Return (N, outputs, H, W) for `x` (N, inputs, H, W), times `gain`; H and W halved if this goes down.

        Gains and bias go into the convolution, as a leaky ReLU lets a positive factor through.
        """
        gain = gain * (1.0 if self.bias is None else LRELU_GAIN)
        weight = (self.weight * (gain / math.sqrt(self.weight[0].numel()))).to(x.dtype)
        bias = None if self.bias is None else (self.bias * gain).to(x.dtype)
        if self.down:
            y = conv2d_down2(x, weight, self.resample_filter, bias)
        else:
            y = F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
        if self.bias is None:
            return y
        clamp = None if self.clamp is None else self.clamp * gain / LRELU_GAIN
        return activation(y, slope=LEAKY_SLOPE, gain=1, clamp=clamp)


class DiscriminatorBlock(torch.nn.Module):
    """Two convolutions and a short cut onto half the size; the first block reads the image's colours."""

    resample_filter: torch.Tensor

    def __init__(
        self, colours: int, inputs: int, outputs: int, half: bool, clamp: float | None, frozen: int, first: bool
    ):
        super().__init__()
        self.in_half = half
        self.register_buffer("resample_filter", resample_filter())
        freeze = iter([True] * frozen + [False] * 4)
        if first:
            self.fromrgb = Conv(colours, inputs, 1, clamp=clamp, frozen=next(freeze))
        self.first = first
        self.conv0 = Conv(inputs, inputs, 3, clamp=clamp, frozen=next(freeze))
        self.conv1 = Conv(inputs, outputs, 3, down=True, clamp=clamp, frozen=next(freeze))
        self.skip = Conv(inputs, outputs, 1, bias=False, down=True, frozen=next(freeze))

    def forward(self, x: torch.Tensor, half_dtype: torch.dtype | None) -> torch.Tensor:
        """Return (N, outputs, R / 2, R / 2) of features `x` (N, inputs, R, R), or of the image in the first block."""
        full = self.conv0.weight.dtype
        dtype = half_dtype if self.in_half and half_dtype is not None else full
        x = x.to(dtype=dtype, memory_format=layout_of(x.device, dtype != full))
        if self.first:
            x = self.fromrgb(x)
        return self.skip(x, gain=math.sqrt(0.5)).add_(self.conv1(self.conv0(x), gain=math.sqrt(0.5)))


class DiscriminatorEpilogue(torch.nn.Module):
    """The last block: how images of a batch differ, a convolution, and what is left as one vector."""

    def __init__(self, width: int, outputs: int, clamp: float | None, mbstd_group: int):
        super().__init__()
        self.mbstd_group = mbstd_group
        self.conv = Conv(width + 1, width, 3, clamp=clamp)
        self.fc = Linear(width * 16, width, lrelu=True)
        self.out = Linear(width, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, outputs) of features `x` (N, width, 4, 4)."""
        x = x.to(dtype=self.conv.weight.dtype, memory_format=torch.contiguous_format)
        x = torch.cat([x, minibatch_deviation(x, self.mbstd_group)], 1)
        return self.out(self.fc(self.conv(x).flatten(1)))


class Discriminator(torch.nn.Module):
    """Images to logits: how real they look."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.config = dict(config)
        self.c_dim, self.resolution, self.channels = config["c_dim"], config["resolution"], config["channels"]
        self.half_dtype = torch.float16
        clamp, frozen = config["conv_clamp"], config["freeze_layers"]
        half_from = lowest_half_resolution(self.resolution, config["num_fp16_res"])
        self.resolutions = [2**i for i in range(int(math.log2(self.resolution)), 2, -1)]

        def width(size: int) -> int:
            return channels_at(size, config["channel_base"], config["channel_max"])

        for size in self.resolutions:
            first = size == self.resolution
            block = DiscriminatorBlock(
                self.channels, width(size), width(size // 2), size >= half_from, clamp, frozen, first
            )
            setattr(self, f"b{size}", block)
            frozen = max(frozen - (4 if first else 3), 0)
        self.b4 = DiscriminatorEpilogue(width(4), width(4) if self.c_dim else 1, clamp, config["mbstd_group"])
        if self.c_dim:
            self.mapping = MappingNetwork(0, self.c_dim, width(4), None)

    def forward(self, images: torch.Tensor, c: torch.Tensor | None = None, force_fp32: bool = False) -> torch.Tensor:
        """Return logits (N, 1) float32 of `images` (N, channels, R, R) and labels `c` (N, c_dim) or None."""
        half_dtype = self.half_dtype if images.is_cuda and not force_fp32 else None
        x = images
        for size in self.resolutions:
            x = getattr(self, f"b{size}")(x, half_dtype)
        x = self.b4(x)
        if not self.c_dim:
            return x
        projection = self.mapping(None, c)  # (N, C)
        return (x * projection).sum(1, keepdim=True) / math.sqrt(projection.shape[1])
