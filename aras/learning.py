"""What a segmenter's training is made of: its state, an epoch of it, and the files that it goes on from."""

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aras.checkpoints import keep_also_as, load_state, save_tensors
from aras.errors import UserError
from aras.evaluation import Evaluation, Loss, evaluate
from aras.files import whole_file
from aras.inference import logits_of
from aras.legend import NO_DATA
from aras.loading import batches_of
from aras.patches import png_of_mask
from aras.training import mixed_seed

if TYPE_CHECKING:
    import torch

    from aras.loading import Batch

LR_PATIENCE = 3  # epochs without a better F1 before the learning rate is cut; this and the next two as published
LR_FACTOR = 0.1
CLIP_NORM = 1.0
LOOK_EVERY = 50  # steps between looks at the loss: each look waits for the GPU


@dataclass
class State:
    """All that changes during training; last.pt is its image on disk."""

    model: "torch.nn.Module"
    optimizer: "torch.optim.Optimizer"
    scheduler: "torch.optim.lr_scheduler.ReduceLROnPlateau"
    epoch: int = 0  # epochs finished
    best_f1: float = -1.0
    best_epoch: int = 0
    sets: dict[str, str] = field(default_factory=dict)  # what tells the pairs of each set, by its name

    @property
    def parts(self) -> dict[str, Any]:
        """What has tensors, by its name in last.pt."""
        return {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}

    @property
    def numbers(self) -> dict[str, Any]:
        """The rest, by its name in last.pt."""
        return {"epoch": self.epoch, "best_f1": self.best_f1, "best_epoch": self.best_epoch, "sets": self.sets}


def new_state(model: "torch.nn.Module", lr: float, sets: dict[str, str], device: "torch.device") -> State:
    """Return the state before the first epoch."""
    import torch

    model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, fused=device.type == "cuda")
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
    scheduler = plateau(optimizer, mode="max", patience=LR_PATIENCE, factor=LR_FACTOR)
    return State(model, optimizer, scheduler, sets=sets)


def resume(state: State, last: Path, kind: dict[str, str]) -> None:
    """Load `last` (last.pt) into `state`.

    Raises:
        UserError: the file is torn, of another training than `kind`, or of another dataset.
    """
    found = load_state(last, kind, state.parts)
    before = found.get("sets", state.sets)
    changed = [
        f"{name} was {before.get(name)}, now {told}" for name, told in state.sets.items() if before.get(name) != told
    ]
    if changed:
        raise UserError(
            f"the dataset is not the one that {last} was trained on: {'; '.join(changed)}; put it back, or name another"
            " --outdir"
        )
    for name, value in found.items():
        setattr(state, name, value)


def dice_loss() -> Loss:
    """Return the loss of logits (B, 7, H, W) and labels (B, H, W).

    The sum of 1 - Dice over the classes that the batch has, divided by 7: smp counts an absent class as 0.
    """
    import segmentation_models_pytorch as smp

    return smp.losses.DiceLoss("multiclass", from_logits=True, ignore_index=NO_DATA)


def train_epoch(state: State, loader: Any, seed: int, device: "torch.device") -> float:
    """Train one epoch and return its mean loss; one that is no number ends the epoch early."""
    import torch

    state.model.train()
    loss_of, epoch = dice_loss(), loader.batch_sampler.epoch
    total, seen = torch.zeros((), device=device), 0
    for step, (images, labels) in enumerate(batches_of(loader, f"epoch {epoch}")):
        torch.manual_seed(mixed_seed(seed, epoch, step))  # for dropout
        loss = loss_of(logits_of(state.model, images, device), labels.to(device, non_blocking=True))
        state.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), CLIP_NORM)
        state.optimizer.step()
        total += loss.detach() * len(images)
        seen += len(images)
        if (step + 1) % LOOK_EVERY == 0 and not torch.isfinite(total):
            break
    return float(total) / seen


def check_finite(state: State, losses: dict[str, float], outdir: Path) -> None:
    """Raise `UserError` unless the losses and weights after an epoch are numbers; nothing of it is kept otherwise."""
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


def save_best(state: State, best: Path, published: Path) -> None:
    """Write the weights to `best` (best.pt), which is the `published` name's file too."""
    # In PyTorch's default layout: safetensors takes no other.
    save_tensors(best, {name: tensor.contiguous() for name, tensor in state.model.state_dict().items()})
    keep_also_as(best, published)


def mend_best(state: State, best: Path, published: Path) -> None:
    """Have `best` (best.pt) and `published` be there and be of the best epoch, after a kill or a deletion.

    Raises:
        UserError: they are gone, and last.pt is of another epoch.
    """
    if state.best_epoch == state.epoch:
        save_best(state, best, published)  # a kill may have come between last.pt and best.pt
    elif best.exists():
        keep_also_as(best, published)
    elif published.exists():
        keep_also_as(published, best)
    else:
        raise UserError(
            f"{best} is missing, and last.pt has the weights of epoch {state.epoch}, not of the best,"
            f" {state.best_epoch}; put it back, or delete {best.parent} to train again"
        )


def predict_test(
    model: "torch.nn.Module", batches: "Iterable[Batch]", names: np.ndarray, path: Path, device: "torch.device"
) -> Evaluation:
    """Write the predictions for the images `names` to a zip at `path`; return what `evaluate` does."""
    left = iter(names)
    with whole_file(path) as part, zipfile.ZipFile(part, "w") as archive:

        def take(predictions: np.ndarray) -> None:
            for labels in predictions:
                # A fixed date, so that the same predictions are the same bytes.
                entry = zipfile.ZipInfo(f"pred_{next(left)}.png", date_time=(1980, 1, 1, 0, 0, 0))
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, png_of_mask(labels))

        return evaluate(model, batches, device, dice_loss(), take=take)
