"""What the networks cost: parameters, and floating-point operations, counted by PyTorch's own formulas."""

from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

if TYPE_CHECKING:
    from torch import nn

    from aras.spade.recipes import Recipe


class Flop(TorchDispatchMode):
    """Counts the FLOP of what the body runs, in `count`: of convolutions and matrix products, forward and backward.

    A multiplication with its addition is 2; what is done element by element is not counted. Unlike PyTorch's
    FlopCounterMode it tells no modules apart, and therefore bears gradients of gradients.
    """

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func`, and count it."""
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula:
            self.count += formula(*args, **(kwargs or {}), out_val=result)
        return result


def parameters(network: "nn.Module") -> int:
    """Return how many numbers `network` learns."""
    return sum(weights.numel() for weights in network.parameters())


def forward_flop(recipe: "Recipe", width: int, side: int) -> dict[str, int]:
    """Return the FLOP of one image of `side` x `side` pixels, forward, through "generator" and "discriminator".

    Nothing is computed.
    """
    with torch.device("meta"), torch.no_grad():
        generator: Any = recipe.generator(width)
        discriminator = recipe.discriminator(width)
        labels = torch.zeros(1, side, side, dtype=torch.uint8)
        with Flop() as drawing:
            image = generator(labels, torch.zeros(1, generator.z_dim))
        with Flop() as judging:
            discriminator(image, labels)
    return {"generator": drawing.count, "discriminator": judging.count}
