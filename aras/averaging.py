"""The exponential moving average of a model's weights, which often segments better than the weights of any one step.

torch.optim.swa_utils.AveragedModel is not used: it moves its count to the GPU at every update, which waits for the GPU,
and has no warm-up.
"""

from copy import deepcopy
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class WeightAverage:
    """The average of a model's weights over its updates, as a model of its own.

    After update n (from 1) it is d * average + (1 - d) * weights with d = min(decay, (1 + n) / (10 + n)), as in
    TensorFlow's ExponentialMovingAverage: with `decay` alone, the weights that training began from would stay the
    larger part of it for 0.7 / (1 - decay) steps. The statistics of batch normalisation are averaged in the same way,
    for they belong to the weights; whole numbers, such as its count of batches, are copied.

    Attributes:
        model: the average, in evaluation mode; evaluate it and save its `state_dict`.
        updates: how many there have been.
    """

    def __init__(self, model: "torch.nn.Module", decay: float):
        """Begin from the weights that `model` has now, on its device; `decay` is 0..1, such as 0.999."""
        self.model = deepcopy(model).eval().requires_grad_(False)
        self.decay, self.updates = decay, 0

    def update(self, model: "torch.nn.Module") -> None:
        """Take in the weights of `model` after a step; nothing waits for the GPU."""
        import torch

        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages, weights = [], []
        for average, now in zip(_tensors_of(self.model), _tensors_of(model), strict=True):
            if average.is_floating_point():
                averages.append(average)
                weights.append(now)
            else:
                average.copy_(now)
        torch._foreach_lerp_(averages, weights, 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """Return what the average goes on from."""
        return {"updates": self.updates, "model": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, all of it or none.

        Raises:
            KeyError: it is no such state.
            ValueError: its tensors are not those of this model.
        """
        updates, tensors = state["updates"], state["model"]
        shapes = {name: tensor.shape for name, tensor in self.model.state_dict().items()}
        if shapes != {name: tensor.shape for name, tensor in tensors.items()}:
            raise ValueError("it is of another model")
        self.model.load_state_dict(tensors)
        self.updates = updates


def _tensors_of(model: "torch.nn.Module") -> "chain[torch.Tensor]":
    """Return the parameters and buffers of `model`, without their gradients."""
    return chain((parameter.detach() for parameter in model.parameters()), model.buffers())
