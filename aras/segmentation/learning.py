"""The steps of an epoch of a segmenter's training, what is said of it, and when it is over."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aras.distributed import average_gradients, rank
from aras.errors import UserError
from aras.inference import logits_of
from aras.loading import batches_of
from aras.segmentation.evaluation import Loss
from aras.segmentation.state import State
from aras.training import mixed_seed

if TYPE_CHECKING:
    import torch

CLIP_NORM = 1.0  # as published
LOOK_EVERY = 50  # steps between looks at the loss: each look waits for the GPU


def train_steps(
    state: State,
    model: "torch.nn.Module",
    loader: Any,
    loss_of: Loss,
    seed: int,
    device: "torch.device",
    precision: "torch.dtype",
) -> Iterator[int]:
    """Train the rest of the epoch that has begun, and yield after each step; a loss that is no number ends it early.

    Args:
        state: what is trained.
        model: its model as it is called, perhaps compiled.
        loader: this rank's shares of the batches, by `TrainBatches`.
        loss_of: the loss of a whole batch, from the shares of all ranks.
        seed: what the dropout follows from.
        device: where to compute.
        precision: in which to compute.
    """
    import torch

    model.train()
    batches, epoch = loader.batch_sampler, state.epoch + 1
    batches.epoch, batches.start = epoch, state.step
    parameters = list(state.model.parameters())
    for images, labels in batches_of(loader, f"epoch {epoch}"):
        torch.manual_seed(mixed_seed(seed, epoch, state.step, rank()))  # for dropout
        loss = loss_of(logits_of(model, images, device, precision), labels.to(device, non_blocking=True))
        state.optimizer.zero_grad()
        state.scaler.scale(loss).backward()
        average_gradients(parameters)
        state.scaler.unscale_(state.optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if state.average:
            state.average.update(state.model)
        size = batches.size(state.step)
        state.loss_sum += loss.detach() * size
        state.seen += size
        state.step += 1
        yield state.step
        if state.step % LOOK_EVERY == 0 and not torch.isfinite(state.loss_sum):
            return


def check_finite(state: State, losses: dict[str, float], outdir: Path) -> None:
    """Raise `UserError` unless the losses and weights are numbers; nothing of the epoch is kept otherwise."""
    import torch

    tensors = (tensor for tensor in state.model.state_dict().values() if tensor.is_floating_point())
    if all(map(np.isfinite, losses.values())) and all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        return
    told = ", ".join(f"{name} {loss}" for name, loss in losses.items())
    remedy = f"start again with a lower --lr (it was {state.optimizer.defaults['lr']:g})"
    if state.epoch:
        remedy += f" and another --outdir; {outdir} still holds what the epochs up to {state.epoch} gave"
    else:
        remedy = f"delete {outdir}, which holds no finished epoch, and {remedy}"
    raise UserError(f"training diverged in epoch {state.epoch + 1} ({told}); {remedy}")


def is_over(state: State, epochs: int, patience: int) -> bool:
    """Return whether all epochs are done, or the last `patience` of them brought no better F1."""
    return state.epoch >= epochs or state.epoch - state.best_epoch >= patience


def told_epoch(line: dict[str, Any], state: State, epochs: int) -> str:
    """Return an epoch's metrics as one line."""
    best = "best" if state.best_epoch == line["epoch"] else f"best {state.best_f1:.4f} in epoch {state.best_epoch}"
    return (
        f"epoch {line['epoch']}/{epochs}  loss {line['train_loss']:.4f}  val loss {line['val_loss']:.4f}"
        f"  F1 {line['f1']:.4f}  IoU {line['iou']:.4f}  accuracy {line['accuracy']:.4f}  lr {line['lr']:.0e}"
        f"  {line['seconds']:.1f} s  {line['images_per_second']:.0f} images/s  {best}"
    )
