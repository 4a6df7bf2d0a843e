"""Adaptive discriminator augmentation: what the discriminator sees is transformed, each image with probability p.

Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data" (arXiv 2006.06676), appendix B and
algorithm 1. The geometric transformations of an image become one affine map, its colour transformations one matrix,
and each is executed once. Every amount is 0 where a transformation does not fire, and an image whose amounts are all 0
stays as it is to the last bit.
"""

import math

import torch

from stylegan_errors import StyleganError
from stylegan_warp import warped

KINDS = {
    "blit": ("blit",),
    "geom": ("geom",),
    "color": ("color",),
    "bg": ("blit", "geom"),
    "bgc": ("blit", "geom", "color"),
}
"""The groups of transformations that each named pipe has."""

SHIFT = 0.125  # integer shift at most, and standard deviation of the fractional one, of the image's side
SCALE_STD = 0.2  # of log2 of the isotropic and the anisotropic scale
BRIGHTNESS_STD, CONTRAST_STD, SATURATION_STD = 0.2, 0.5, 1.0  # of the offset in -1..1; of log2; of log2

Amounts = torch.Tensor
"""(N, 10) for geometry: mirror, quarter turns, shift x, y; log2 scale, angle before, log2 stretch, angle after, drift
x, y. (N, 5) for colour: brightness, log2 contrast, luma flip, hue angle, log2 saturation. Pixels and radians."""


def rotation_rate(p: torch.Tensor) -> torch.Tensor:
    """Return the probability of each of two rotations such that at least one fires with probability `p`."""
    return 1 - (1 - p).clamp(min=0).sqrt()


def fired(count: int, rates: torch.Tensor) -> torch.Tensor:
    """Return (`count`, K) float32, 1 where an event of probability `rates` (K,) has happened."""
    return (torch.rand(count, len(rates), device=rates.device) < rates).float()


def draw_geometry(count: int, size: int, blit: torch.Tensor, geom: torch.Tensor) -> Amounts:
    """Return the amounts (`count`, 10) of random geometric transformations of images `size` pixels wide.

    Args:
        count: how many images.
        size: their height and width.
        blit: () the probability of each transformation that keeps pixels whole: mirror, quarter turns, shift.
        geom: () the probability of each other one: scale, rotation, stretch, drift.
    """
    turn = rotation_rate(geom)
    on = fired(count, torch.stack([blit, blit, blit, geom, turn, geom, turn, geom]))
    uniform = torch.rand(count, 6, device=on.device)
    normal = torch.randn(count, 4, device=on.device)
    mirror, quarters = (2 * uniform[:, :1]).floor(), (4 * uniform[:, 1:2]).floor()  # {0, 1} and {0, 1, 2, 3}
    shift = ((2 * uniform[:, 2:4] - 1) * SHIFT * size).round()
    angle = (2 * uniform[:, 4:] - 1) * math.pi
    scale, drift = normal[:, :2] * SCALE_STD, normal[:, 2:] * SHIFT * size
    drawn = [mirror, quarters, shift, scale[:, :1], angle[:, :1], scale[:, 1:], angle[:, 1:], drift]
    gate = [on[:, :3], on[:, 2:7], on[:, 7:], on[:, 7:]]  # a shift or drift is one event in both its directions
    return torch.cat(gate, dim=1) * torch.cat(drawn, dim=1)


def draw_color(count: int, p: torch.Tensor) -> Amounts:
    """Return the amounts (`count`, 5) of random colour transformations, each of probability `p` ()."""
    on = fired(count, p.expand(5))
    uniform = torch.rand(count, 2, device=on.device)
    normal = torch.randn(count, 3, device=on.device)
    brightness, contrast, saturation = normal.unbind(1)
    flip, hue = (2 * uniform[:, 0]).floor(), (2 * uniform[:, 1] - 1) * math.pi
    drawn = [brightness * BRIGHTNESS_STD, contrast * CONTRAST_STD, flip, hue, saturation * SATURATION_STD]
    return on * torch.stack(drawn, dim=1)


def rotations(angle: torch.Tensor) -> torch.Tensor:
    """Return (N, 2, 2) turning (x, y) by `angle` (N,)."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1)


def scales(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return (N, 2, 2) scaling by `x` and `y`, (N,) each."""
    return torch.diag_embed(torch.stack([x, y], dim=1))


def product(*matrices: torch.Tensor) -> torch.Tensor:
    """Return the product of `matrices` (N, 2, 2) in full precision; a matrix product may run in TF32."""
    result = matrices[0]
    for matrix in matrices[1:]:
        result = (result[:, :, :, None] * matrix[:, None]).sum(dim=2)
    return result


def inverse_affine(amounts: Amounts) -> torch.Tensor:
    """Return (N, 2, 3) that leads from a pixel of the transformed image to its place in the original, from centres.

    Drift · R(after) · stretch · R(before) · scale · shift · R(quarter turns) · mirror is what happens to the image
    (algorithm 1, lines 6 to 33); its inverse is composed here.
    """
    mirror, quarters, shift_x, shift_y, scale, before, stretch, after, drift_x, drift_y = amounts.unbind(1)
    whole = product(scales(1 - 2 * mirror, torch.ones_like(mirror)), rotations(-quarters * (math.pi / 2)))
    grown, stretched = torch.exp2(-scale), torch.exp2(-stretch)
    general = product(scales(grown, grown), rotations(-before), scales(stretched, 1 / stretched), rotations(-after))
    linear = product(whole, general)
    shift, drift = torch.stack([shift_x, shift_y], dim=1), torch.stack([drift_x, drift_y], dim=1)
    back = (whole * shift[:, None]).sum(dim=2) + (linear * drift[:, None]).sum(dim=2)
    return torch.cat([linear, -back[:, :, None]], dim=2)


def color_change(amounts: Amounts) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what is to be added to colours x (N, 3, ...): `change` (N, 3, 3) times x, and `offset` (N, 3, 1).

    Saturation · hue · luma flip · contrast · brightness (algorithm 1, lines 49 to 66). With v the axis of greys, V =
    v vᵀ and K the cross product with v, the last three scale V by ±1, and turn and scale the plane across it: together
    they are ±V + s (cos θ (I - V) + sin θ K).
    """
    brightness, contrast, flip, hue, saturation = amounts[:, :, None, None].unbind(1)
    identity = torch.eye(3, dtype=amounts.dtype, device=amounts.device)
    grey = torch.full_like(identity, 1 / 3)
    ahead = identity.roll(1, dims=0)  # K is this less its transpose, over √3
    cross = (ahead - ahead.T) / math.sqrt(3)
    along = torch.exp2(contrast) * (1 - 2 * flip)
    across = torch.exp2(contrast + saturation)
    change = (along - 1) * grey + (across * hue.cos() - 1) * (identity - grey) + across * hue.sin() * cross
    return change, (along * brightness).expand(-1, 3, 1)


def recolored(images: torch.Tensor, amounts: Amounts) -> torch.Tensor:
    """Return `images` (N, C, H, W) after the colour transformations `amounts`; C is 3, or 1 for greyscale.

    Grey pixels stay grey but for the mean of what becomes of the three channels. What is computed is the change: where
    there is none, nothing is rounded.
    """
    change, offset = color_change(amounts.to(images.dtype))
    if images.shape[1] == 1:
        change, offset = change.sum(dim=2, keepdim=True).mean(dim=1, keepdim=True), offset[:, :1]
    return images + torch.baddbmm(offset, change, images.flatten(2)).view_as(images)


def moved(images: torch.Tensor, amounts: Amounts) -> torch.Tensor:
    """Return `images` (N, C, R, R) after the geometric transformations `amounts` (N, 10)."""
    changed, inverse = amounts.ne(0).any(dim=1), inverse_affine(amounts)
    if images.is_cuda:  # leaving images out would make the host wait for the GPU's answer which
        return torch.where(changed[:, None, None, None], warped(images, inverse), images)
    index = changed.nonzero().squeeze(1)
    return images.index_copy(0, index, warped(images[index], inverse[index])) if len(index) else images


class AugmentPipe(torch.nn.Module):
    """Random transformations of image batches, each of an image's with probability `p`, a buffer on the device.

    Everything random comes from the default generator of the images' device.
    """

    p: torch.Tensor

    def __init__(self, kind: str = "bgc", p: float = 0.0):
        super().__init__()
        if kind not in KINDS:
            raise StyleganError(f"there is no augmentation {kind!r}; choose one of {', '.join(KINDS)}")
        self.kind, self.groups = kind, KINDS[kind]
        self.register_buffer("p", torch.tensor(float(p)))

    def rate(self, group: str) -> torch.Tensor:
        """Return the probability of each transformation of `group`, ()."""
        return self.p if group in self.groups else torch.zeros_like(self.p)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return `images` (N, 3 or 1, R, R), -1..1, transformed; differentiable in them any number of times."""
        count, _, _, size = images.shape
        if "blit" in self.groups or "geom" in self.groups:
            images = moved(images, draw_geometry(count, size, self.rate("blit"), self.rate("geom")))
        if "color" in self.groups:
            images = recolored(images, draw_color(count, self.p))
        return images
