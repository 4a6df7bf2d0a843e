"""Batch normalisation over the images of all ranks, as if one process had seen the whole batch.

PyTorch's SyncBatchNorm does this on GPUs alone; here is the same for the CPU. Names in the state dict stay the same.
"""

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from aras.distributed import sum_over_ranks, world_size


class RankBatchNorm(torch.nn.Module):
    """What a batch normalisation does, with statistics of all ranks in training; shares its weights and buffers.

    timm's layers do an activation and a drop-out in one with it, which follow here too.
    """

    running_mean: torch.Tensor | None
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def __init__(self, norm: _BatchNorm):
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))
        self.eps, self.momentum, self.training = norm.eps, norm.momentum, norm.training
        self.drop, self.act = (getattr(norm, name, torch.nn.Identity()) for name in ("drop", "act"))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return `values` (B, C, ...), this rank's share of the batch, normalised."""
        if self.training:
            found = self.normalised(values)
        else:
            found = torch.nn.functional.batch_norm(
                values,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                training=self.running_mean is None,
                eps=self.eps,
            )
        return self.act(self.drop(found))

    def normalised(self, values: torch.Tensor) -> torch.Tensor:
        """Return `values` normalised by the statistics of all ranks, which the running ones follow.

        The mean comes first and the squares are centred on it, in two sums over ranks: in one, the variance would be a
        small difference of large numbers.
        """
        dims = [0, *range(2, values.ndim)]
        shape = (1, -1, *(1 for _ in dims[1:]))
        exact = values.to(torch.promote_types(values.dtype, torch.float32))
        own = exact.new_tensor([values.numel() / values.shape[1]])
        total, count = sum_over_ranks(torch.cat([exact.sum(dims), own])).split([values.shape[1], 1])
        mean = total / count
        centred = exact - mean.view(shape)
        variance = sum_over_ranks(centred.square().sum(dims)) / count
        self.follow(mean.detach(), variance.detach() * (count / (count - 1)))
        found = centred * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            found = found * self.weight.view(shape) + self.bias.view(shape)
        return found.to(values.dtype)

    @torch.no_grad()
    def follow(self, mean: torch.Tensor, unbiased: torch.Tensor) -> None:
        """Have the running statistics follow the batch's `mean` (C,) and `unbiased` variance (C,)."""
        if self.running_mean is None:
            return
        self.num_batches_tracked += 1
        rate = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked
        self.running_mean.lerp_(mean, rate)
        self.running_var.lerp_(unbiased, rate)


def synchronised(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Return `model` with its batch normalisations over all ranks; itself, untouched, in a single process."""
    if world_size() == 1:
        return model
    if device.type == "cuda":
        from timm.layers import convert_sync_batchnorm

        return convert_sync_batchnorm(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(parent, name, RankBatchNorm(child))
    return model
