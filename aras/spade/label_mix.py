"""LabelMix: real and generated images mixed class by class, on which the discriminator should be of both minds.

Schönfeld et al. 2021 (arXiv 2012.04781), section 3.2, "LabelMix regularization".
"""

from typing import TYPE_CHECKING

import torch

from aras.legend import NUM_CLASSES

if TYPE_CHECKING:
    from torch import Tensor


def mixing_mask(labels: "Tensor", chances: "Tensor") -> "Tensor":
    """Return (B, 1, H, W) float32: 1 in the classes that stay real, 0 in those that are generated.

    Args:
        labels: (B, H, W); pixels of `NO_DATA` stay real.
        chances: (B, 7) uniform in 0..1, one for each class of each image: a class stays real under 0.5.
    """
    stays = torch.cat([chances < 0.5, torch.ones_like(chances[:, :1], dtype=torch.bool)], 1)  # (B, 8)
    index = labels.long().clamp(max=NUM_CLASSES).flatten(1)  # (B, H * W)
    return stays.gather(1, index).view(len(labels), 1, *labels.shape[1:]).float()


def mixed(real: "Tensor", fake: "Tensor", mask: "Tensor") -> "Tensor":
    """Return `real` where `mask` (B, 1, H, W) is 1 and `fake` where it is 0, both (B, C, H, W)."""
    return mask * real + (1 - mask) * fake


def inconsistency(of_mixed: "Tensor", of_real: "Tensor", of_fake: "Tensor", mask: "Tensor") -> "Tensor":
    """Return the mean squared difference of the mixed image's logits and mixed logits, (B, 8, H, W)."""
    return (of_mixed.float() - mixed(of_real.float(), of_fake.float(), mask)).square().mean()
