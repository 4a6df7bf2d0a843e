"""All that changes while a segmenter is trained, and how it goes to disk and comes back."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aras.averaging import WeightAverage
from aras.checkpoints import load_state, save_state
from aras.errors import UserError

if TYPE_CHECKING:
    import torch

LR_PATIENCE = 3  # epochs without a better F1 before the learning rate is cut, and by what; both as published
LR_FACTOR = 0.1


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
