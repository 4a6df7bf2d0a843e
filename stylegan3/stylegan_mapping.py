"""Fully connected layers at an equalised learning rate; the mapping network of StyleGAN2, 3 and the discriminator.

Sources: Karras et al. 2018, Progressive Growing of GANs (4.1, equalised learning rate); Karras et al. 2019, A
Style-Based Generator Architecture (mapping, truncation: appendix B).
"""

import math

import torch
import torch.nn.functional as F

from stylegan_ops import LEAKY_SLOPE, LRELU_GAIN

W_AVERAGE_BETA = 0.998


def normalised(x: torch.Tensor) -> torch.Tensor:
    """Return `x` (N, C) with each row scaled to a mean square of 1."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class Linear(torch.nn.Module):
    """A fully connected layer whose weights are drawn with unit variance and scaled when used."""

    def __init__(self, inputs: int, outputs: int, *, lrelu: bool = False, lr_multiplier: float = 1, bias: float = 0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(outputs, inputs) / lr_multiplier)
        self.bias = torch.nn.Parameter(torch.full((outputs,), float(bias) / lr_multiplier))
        self.lrelu, self.lr_multiplier = lrelu, lr_multiplier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, outputs) for `x` (N, inputs)."""
        gain = self.lr_multiplier / math.sqrt(self.weight.shape[1])
        x = x.to(self.weight.dtype)
        y = torch.addmm(self.bias, x, self.weight.t(), beta=self.lr_multiplier, alpha=gain)
        return F.leaky_relu(y, LEAKY_SLOPE) * LRELU_GAIN if self.lrelu else y


class MappingNetwork(torch.nn.Module):
    """Latents z and labels c to intermediate latents w; with `z_dim` 0 (the discriminator's) labels alone."""

    w_avg: torch.Tensor

    def __init__(
        self, z_dim: int, c_dim: int, w_dim: int, num_ws: int | None, depth: int = 8, lr_multiplier: float = 0.01
    ):
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_ws, self.depth = z_dim, c_dim, w_dim, num_ws, depth
        if c_dim:
            self.embed = Linear(c_dim, w_dim)
        inputs = z_dim + (w_dim if c_dim else 0)
        for i in range(depth):
            layer = Linear(inputs if i == 0 else w_dim, w_dim, lrelu=True, lr_multiplier=lr_multiplier)
            setattr(self, f"fc{i}", layer)
        if num_ws is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self,
        z: torch.Tensor | None,
        c: torch.Tensor | None = None,
        truncation: float = 1.0,
        truncation_cutoff: int | None = None,
        update_averages: bool = False,
    ) -> torch.Tensor:
        """Return w (N, num_ws, w_dim) float32, alike for all layers but for truncation; (N, w_dim) if num_ws is None.

        Args:
            z: (N, z_dim), drawn from N(0, 1).
            c: (N, c_dim) labels; None if c_dim is 0.
            truncation: how far to keep from the average of w: 0 the average itself, 1 untouched.
            truncation_cutoff: how many of the first layers are truncated; None for all.
            update_averages: have the average of w follow this batch.
        """
        parts = []
        if z is not None and self.z_dim:
            parts.append(normalised(z))
        if c is not None and self.c_dim:
            parts.append(normalised(self.embed(c)))
        x = torch.cat(parts, 1)
        for i in range(self.depth):
            x = getattr(self, f"fc{i}")(x)
        if self.num_ws is None:
            return x
        if update_averages:
            self.w_avg.copy_(torch.lerp(x.detach().mean(0), self.w_avg, W_AVERAGE_BETA))
        ws = x[:, None].repeat(1, self.num_ws, 1)
        if truncation == 1:
            return ws
        cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
        return torch.cat([self.w_avg.lerp(ws[:, :cutoff], truncation), ws[:, cutoff:]], 1)
