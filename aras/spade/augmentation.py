"""Changes of image and mask alike that leave every label exact: symmetries of the square, shifts, holes, colours.

Which change an image meets is a function of its `chances`, numbers drawn uniformly in 0..1, so that it does not depend
on how a batch is cut. The symmetries are always on: images from above have no up and no left. The rest is the
adaptive discriminator augmentation of Karras et al. 2020 (arXiv 2006.06676): real and generated images of one mask go
through the same change on the way to the discriminator, each kind with the probability `strength`. Gradients flow.
"""

import math
from typing import TYPE_CHECKING

import torch

from aras.inference import SYMMETRIES, turned
from aras.legend import NO_DATA

if TYPE_CHECKING:
    from torch import Tensor

TURN_CHANCES = 1
VIEW_CHANCES = 12
"""How many numbers `turned_pairs` and `View` want of each image."""

HOLE = 0.5  # of a side: the cut-out's (Karras et al. 2020, appendix B)
BRIGHTNESS = 0.2  # of the half range, at most, up or down
CONTRAST = math.log(1.5)
SATURATION = math.log(2)
LUMA = (0.299, 0.587, 0.114)

TARGET = 0.6
KIMG_TO_FULL = 500


def turned_pairs(images: "Tensor", labels: "Tensor", chances: "Tensor") -> "tuple[Tensor, Tensor]":
    """Return `images` (B, 3, H, W) and `labels` (B, H, W), each pair in one of the square's 8 symmetries.

    Patches that are not square keep their shape: only the four that do not swap the sides are drawn then.
    """
    height, width = labels.shape[1:]
    kinds = range(SYMMETRIES) if height == width else (0, 2, 4, 6)
    drawn = [kinds[int(chance * len(kinds))] for chance in chances[:, 0].tolist()]
    return (
        torch.stack([turned(image, kind, (1, 2)) for image, kind in zip(images, drawn, strict=True)]),
        torch.stack([turned(mask, kind, (0, 1)) for mask, kind in zip(labels, drawn, strict=True)]),
    )


class View:
    """One change for each of B image-mask pairs, the same for whatever images of these masks are shown."""

    def __init__(self, chances: "Tensor", strength: float, height: int, width: int):
        """Draw the changes from `chances` (B, 12) uniform in 0..1; at `strength` 0 there is none."""
        gates, values = (chances[:, :5] < strength).cpu(), chances[:, 5:].cpu()
        self.size = height, width
        self.active = bool(gates.any())
        shifts = (values[:, :2] * torch.tensor(self.size)).long() * gates[:, :1]
        self.shifts = [(down, right) for down, right in shifts.tolist()]
        corners = (values[:, 2:4] * torch.tensor(self.size)).long().tolist()
        self.holes = [tuple(corner) if cut else None for corner, cut in zip(corners, gates[:, 1].tolist(), strict=True)]
        signed = (2 * values[:, 4:7] - 1) * gates[:, 2:5]  # (B, 3), 0 where the gate is shut
        self.brightness = BRIGHTNESS * signed[:, 0].view(-1, 1, 1, 1)
        self.contrast = torch.exp(CONTRAST * signed[:, 1]).view(-1, 1, 1, 1)
        self.saturation = torch.exp(SATURATION * signed[:, 2]).view(-1, 1, 1, 1)

    def of_images(self, images: "Tensor") -> "Tensor":
        """Return the changed `images` (B, 3, H, W)."""
        if not self.active:
            return images
        brightness, contrast, saturation = (
            part.to(images.device, images.dtype) for part in (self.brightness, self.contrast, self.saturation)
        )
        luma = (images * images.new_tensor(LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
        images = luma + (images - luma) * saturation
        middle = images.mean(dim=(1, 2, 3), keepdim=True)
        images = middle + (images - middle) * contrast + brightness
        return self._moved(images, 0)

    def of_labels(self, labels: "Tensor") -> "Tensor":
        """Return the changed `labels` (B, H, W); what is cut out is `NO_DATA`."""
        return self._moved(labels, NO_DATA) if self.active else labels

    def _moved(self, pixels: "Tensor", hole: int) -> "Tensor":
        """Return `pixels` (B, ..., H, W), each shifted round its edges, `hole` where it is cut out."""
        moved = torch.stack(
            [
                pixel.roll(shift, (-2, -1)) if any(shift) else pixel
                for pixel, shift in zip(pixels, self.shifts, strict=True)
            ]
        )
        kept = torch.ones(len(pixels), *self.size, dtype=torch.bool)
        height, width = (int(HOLE * side) for side in self.size)
        for mask, corner in zip(kept, self.holes, strict=True):
            if corner:
                # Centred at the corner, so that an image's edge is cut out as often as its middle.
                top, left = max(corner[0] - height // 2, 0), max(corner[1] - width // 2, 0)
                mask[top : corner[0] + height // 2, left : corner[1] + width // 2] = False
        kept = kept.to(pixels.device)
        return moved.masked_fill(~(kept.unsqueeze(1) if pixels.ndim == 4 else kept), hole)


def adapted(strength: float, signs: float, images: int, target: float = TARGET) -> float:
    """Return the `strength` after `images` more real ones, of which the discriminator's mean sign was `signs`.

    Over `target` it overfits, and the strength rises; 0 to 1 takes 500,000 images (Karras et al. 2020, section 3).
    """
    step = images / (1000 * KIMG_TO_FULL)
    return min(max(strength + math.copysign(step, signs - target) * (signs != target), 0.0), 1.0)
