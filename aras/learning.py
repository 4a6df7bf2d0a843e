"""What a segmenter's training is made of: its state, the steps of an epoch, and when it is over."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aras.averaging import WeightAverage
from aras.checkpoints import load_state, save_state
from aras.distributed import average_gradients, rank
from aras.errors import UserError
from aras.evaluation import Loss
from aras.inference import logits_of
from aras.loading import batches_of
from aras.training import mixed_seed

if TYPE_CHECKING:
    import torch

LR_PATIENCE = 3  # epochs without a better F1 before the learning rate is cut; this and the next two as published
LR_FACTOR = 0.1
CLIP_NORM = 1.0
LOOK_EVERY = 50  # steps between looks at the loss: each look waits for the GPU


@dataclass
class State:
    """All that changes during training, the same in every process; last.pt is its image on disk.

    Attributes:
        model: the segmenter.
        optimizer: AdamW.
        scheduler: of the learning rate.
        scaler: of the loss, for float16 alone: without it, small gradients would be 0.
        average: of the weights, if one is kept.
        loss_sum: the losses of the epoch that has begun, each times its batch's images, () float64.
        epoch: epochs finished.
        step: steps done of the epoch that has begun.
        seen: images in them.
        best_f1: the highest validation F1.
        best_epoch: its epoch.
        sets: what tells the pairs of each set, by its name.
    """

    model: "torch.nn.Module"
    optimizer: "torch.optim.Optimizer"
    scheduler: "torch.optim.lr_scheduler.ReduceLROnPlateau"
    scaler: "torch.amp.GradScaler"
    average: WeightAverage | None
    loss_sum: "torch.Tensor"
    epoch: int = 0
    step: int = 0
    seen: int = 0
    best_f1: float = -1.0
    best_epoch: int = 0
    sets: dict[str, str] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, Any]:
        """What has tensors, by its name in last.pt."""
        parts = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}
        parts |= {"scaler": self.scaler} if self.scaler.is_enabled() else {}
        return parts | ({"average": self.average} if self.average else {})

    @property
    def judged(self) -> "torch.nn.Module":
        """The model that is validated, kept as the best and tested: the average of the weights if one is kept."""
        return self.average.model if self.average else self.model

    @property
    def numbers(self) -> dict[str, Any]:
        """The rest, by its name in last.pt."""
        names = ("epoch", "step", "seen", "best_f1", "best_epoch", "sets")
        return {name: getattr(self, name) for name in names} | {"loss_sum": float(self.loss_sum)}

    @property
    def loss(self) -> float:
        """The mean loss of the epoch that has begun."""
        return float(self.loss_sum) / self.seen

    def end_epoch(self, f1: float) -> None:
        """Count the epoch as finished, with its validation `f1`."""
        self.scheduler.step(f1)
        self.epoch += 1
        self.step = self.seen = 0
        self.loss_sum.zero_()
        if f1 > self.best_f1:
            self.best_f1, self.best_epoch = f1, self.epoch


def new_state(
    model: "torch.nn.Module",
    lr: float,
    ema: float,
    sets: dict[str, str],
    device: "torch.device",
    precision: "torch.dtype",
) -> State:
    """Return the state before the first epoch; without `ema`, the decay of the average, none is kept."""
    import torch

    model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, fused=device.type == "cuda")
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
    scheduler = plateau(optimizer, mode="max", patience=LR_PATIENCE, factor=LR_FACTOR)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
    average = WeightAverage(model, ema) if ema else None
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    return State(model, optimizer, scheduler, scaler, average, loss_sum, sets=sets)


def save(state: State, last: Path, kind: dict[str, str]) -> None:
    """Write `state` to `last` (last.pt)."""
    save_state(last, kind, state.parts, state.numbers)


def resume(state: State, last: Path, kind: dict[str, str]) -> None:
    """Load `last` (last.pt) into `state`.

    Raises:
        UserError: the file is torn, of another training than `kind`, or of another dataset.
    """
    now = state.sets
    found = load_state(last, kind, state.parts, state.numbers)
    changed = [
        f"{name} was {found['sets'].get(name)}, now {told}"
        for name, told in now.items()
        if found["sets"].get(name) != told
    ]
    if changed:
        raise UserError(
            f"the dataset is not the one that {last} was trained on: {'; '.join(changed)}; put it back, or name another"
            " --outdir"
        )
    state.loss_sum.fill_(found.pop("loss_sum"))
    for name, value in found.items():
        setattr(state, name, value)


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
