"""A sum over processes that gradients flow back through."""

from typing import Any

import torch
import torch.distributed


class SharedSum(torch.autograd.Function):
    """The sum of every rank's tensor.

    Every rank computes its own loss from it, so what flows back to a rank's tensor is the sum of all ranks' gradients.
    """

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of every rank's `tensor`."""
        total = tensor.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        """Return the sum of every rank's `gradient`."""
        total = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total
