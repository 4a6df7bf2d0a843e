"""What the networks cost: parameters, and floating-point operations of a forward pass, counted by PyTorch."""

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from torch import nn

    from aras.spade.recipes import Recipe


def parameters(network: "nn.Module") -> int:
    """Return how many numbers `network` learns."""
    return sum(weights.numel() for weights in network.parameters())


def forward_flop(recipe: "Recipe", width: int, side: int) -> dict[str, int]:
    """Return the FLOP of an image of `side` x `side` pixels, forward, by module: "Generator.blocks.0" and the like.

    The networks' class names stand for the whole of each. Convolutions and matrix products are counted, a
    multiplication with its addition as 2; what is done element by element is not. Nothing is computed.
    """
    with torch.device("meta"), torch.no_grad():
        generator: Any = recipe.generator(width)
        discriminator = recipe.discriminator(width)
        labels = torch.zeros(1, side, side, dtype=torch.uint8)
        with FlopCounterMode(display=False) as counter:
            discriminator(generator(labels, torch.zeros(1, generator.z_dim)), labels)
    return {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
