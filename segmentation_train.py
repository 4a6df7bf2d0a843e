"""Stage 4: train a land-cover segmenter on the dataset and score it on the test split.

Run bare it follows the paper (arXiv 2603.09625, segmentation experiments): a Segformer decoder on an ImageNet
EfficientNet-B7, multiclass Dice loss, AdamW, flips, quarter turns and brightness/contrast, a learning rate cut
tenfold when the validation macro F1 stands still, an early stop, and the best epoch's weights scored on every pixel of
the real test split. `--train` adds synthetic images to the real ones, which is the paper's question.

Everything random is a function of (seed, epoch, index) or (seed, epoch, step), so a run that was killed continues after
its last finished epoch as if nothing had happened, and workers hold no state that could matter.
"""

import os
import time
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from aras.checkpoints import fit_tensors, keep_also_as, load_state, load_tensors, save_state, save_tensors
from aras.command import Command, data_option, device_option, limit_option, seed_option, wandb_option
from aras.confusion import SCORES, score_table, scores
from aras.errors import UserError
from aras.files import read_json, remove_parts, sole_writer, whole_file, write_json
from aras.legend import CLASS_NAMES
from aras.loading import EpochBatches, PairSet, PaperAugmentation, batches_of, loader_of
from aras.pairs import GENERATED, Pairs, find_pairs, image_size, told_size
from aras.patches import png_of_mask
from aras.runs import FREE, begin_run, check_same_options
from aras.segmenter import (
    ARCHITECTURES,
    STRIDE,
    build_model,
    check_takes,
    dice_loss,
    evaluate,
    logits_of,
    published_name,
)
from aras.training import (
    Log,
    append_line,
    choose_device,
    keep_epochs,
    memory_told,
    mixed_seed,
    share_cores,
    told_device,
    wandb_log,
)

if TYPE_CHECKING:
    import torch

LR_PATIENCE = 3  # epochs without a better F1 before the learning rate is cut; this and the next two as published
LR_FACTOR = 0.1
CLIP_NORM = 1.0
MOST_WORKERS = 16  # as published; more than there are cores would only take turns
LOOK_EVERY = 50  # steps between looks at the loss: each look waits for the GPU
FREE_OPTIONS = FREE | {"epochs", "outdir"}
"""`--epochs` may be raised to train on: nothing in the recipe depends on how many are to come."""

PACKAGES = ("torch", "segmentation-models-pytorch", "timm", "albumentations", "numpy", "pillow")


@dataclass(frozen=True)
class Options:
    """The command line's options, by name."""

    data: Path
    train: tuple[str, ...]
    arch: str
    encoder: str
    encoder_weights: str
    epochs: int
    batch_size: int
    lr: float
    patience: int
    workers: int
    seed: int
    outdir: Path
    limit: int | None
    device: str
    wandb_project: str | None

    @property
    def kind(self) -> dict[str, str]:
        """What is trained, as last.pt has it."""
        return {"arch": self.arch, "encoder": self.encoder}

    @property
    def published_name(self) -> str:
        """The name that the published scripts give to this model's files."""
        return published_name(self.arch, self.encoder)


@dataclass
class State:
    """All that changes during training; last.pt is its image on disk."""

    model: "torch.nn.Module"
    optimizer: "torch.optim.Optimizer"
    scheduler: "torch.optim.lr_scheduler.ReduceLROnPlateau"
    epoch: int = 0  # epochs finished
    best_f1: float = -1.0
    best_epoch: int = 0

    @property
    def parts(self) -> dict[str, Any]:
        """What has tensors, by its name in last.pt."""
        return {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}

    @property
    def numbers(self) -> dict[str, float]:
        """The rest, by its name in last.pt."""
        return {"epoch": self.epoch, "best_f1": self.best_f1, "best_epoch": self.best_epoch}


@dataclass
class Loaders:
    """The batches of the three splits, and the pairs that the test split's come from."""

    train: Any
    val: Any
    test: Any
    test_pairs: Pairs


def make_loaders(options: Options, device: "torch.device") -> Loaders:
    """Return the batches of all splits, and check what can be checked without reading every image.

    Raises:
        UserError: a split is missing or incomplete, or the size is none that the model takes.
    """
    sets = [find_pairs(options.data, name, options.limit) for name in options.train]
    val, test = (find_pairs(options.data, name, options.limit) for name in ("val", "test"))
    first = sets[0].image(0)
    size = image_size(first)
    if size[0] % STRIDE or size[1] % STRIDE:
        raise UserError(
            f"{first} is {told_size(size)} pixels; both sides must be multiples of {STRIDE}, so make the dataset again"
            " with such a --patch-size"
        )
    train = PairSet(sets, size, options.seed, PaperAugmentation(square=size[0] == size[1]))
    if len(train) < 2:
        raise UserError(f"{first.parent} has one image to train on; batch normalisation needs two, so add --train sets")
    told = " + ".join(f"{len(pairs):,} {name}" for name, pairs in zip(options.train, sets, strict=True))
    click.echo(
        f"Reads {options.data}: {told} to train on, {len(val):,} val, {len(test):,} test, {told_size(size)} each"
    )
    val_loader, test_loader = (
        loader_of(PairSet([pairs], size), EpochBatches(len(pairs), options.batch_size), options.workers, device)
        for pairs in (val, test)
    )
    drawn = EpochBatches(len(train), options.batch_size, options.seed)
    return Loaders(loader_of(train, drawn, options.workers, device), val_loader, test_loader, test)


def new_state(options: Options, model: "torch.nn.Module", device: "torch.device") -> State:
    """Return the state before the first epoch."""
    import torch

    model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, fused=device.type == "cuda")
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
    return State(model, optimizer, plateau(optimizer, mode="max", patience=LR_PATIENCE, factor=LR_FACTOR))


def train_epoch(state: State, loader: Any, options: Options, device: "torch.device") -> float:
    """Train one epoch and return its mean loss; one that is no number ends the epoch early."""
    import torch

    state.model.train()
    loss_of, epoch = dice_loss(), loader.batch_sampler.epoch
    total, seen = torch.zeros((), device=device), 0
    for step, (images, labels) in enumerate(batches_of(loader, f"epoch {epoch}")):
        torch.manual_seed(mixed_seed(options.seed, epoch, step))  # for dropout
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


def check_finite(state: State, losses: dict[str, float], options: Options) -> None:
    """Raise `UserError` unless the losses and weights after an epoch are numbers; nothing of it is kept otherwise."""
    import torch

    tensors = (tensor for tensor in state.model.state_dict().values() if tensor.is_floating_point())
    if all(map(np.isfinite, losses.values())) and all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        return
    told = ", ".join(f"{name} {loss}" for name, loss in losses.items())
    remedy = f"start again with a lower --lr (it was {options.lr:g})"
    if state.epoch:
        remedy += f" and another --outdir; {options.outdir} still holds what the epochs up to {state.epoch} gave"
    else:
        remedy = f"delete {options.outdir}, which holds no finished epoch, and {remedy}"
    raise UserError(f"training diverged in epoch {state.epoch + 1} ({told}); {remedy}")


def is_over(state: State, options: Options) -> bool:
    """Return whether all epochs are done, or the last `--patience` of them brought no better F1."""
    return state.epoch >= options.epochs or state.epoch - state.best_epoch >= options.patience


def train(state: State, loaders: Loaders, options: Options, device: "torch.device", log: Log) -> None:
    """Train until the epochs are done or an early stop, keeping metrics.jsonl, last.pt and best.pt after each epoch.

    Written in this order a kill does no harm: on resume, metrics beyond last.pt are dropped, and a best.pt behind
    last.pt is written again from it.
    """
    while not is_over(state, options):
        began, epoch = time.perf_counter(), state.epoch + 1
        loaders.train.batch_sampler.epoch = epoch
        rate = state.optimizer.param_groups[0]["lr"]
        train_loss = train_epoch(state, loaders.train, options, device)
        trained = time.perf_counter() - began
        check_finite(state, {"loss": train_loss}, options)
        val_loss, matrix = evaluate(state.model, batches_of(loaders.val, f"val {epoch}"), device)
        check_finite(state, {"loss": train_loss, "validation loss": val_loss}, options)
        found = scores(matrix)
        state.scheduler.step(found["f1"])
        state.epoch = epoch
        if found["f1"] > state.best_f1:
            state.best_f1, state.best_epoch = found["f1"], epoch
        line: dict[str, Any] = {"epoch": epoch, "train_loss": train_loss, "val_loss": val_loss}
        line |= {name: found[name] for name in ("accuracy", *SCORES)}
        line |= {"class_iou": {name: row["iou"] for name, row in found["classes"].items()}, "lr": rate}
        line |= {"seconds": round(time.perf_counter() - began, 3)}
        line |= {"images_per_second": round(len(loaders.train.dataset) / trained, 2)}
        append_line(options.outdir / "metrics.jsonl", line)
        save_state(options.outdir / "last.pt", options.kind, state.parts, state.numbers)
        if state.best_epoch == epoch:
            save_best(state, options)
        click.echo(told_epoch(line, state, options))
        log(line)


def save_best(state: State, options: Options) -> None:
    """Write the weights to best.pt, which is the published name's file too."""
    save_tensors(options.outdir / "best.pt", state.model.state_dict())
    keep_also_as(options.outdir / "best.pt", options.outdir / f"best_{options.published_name}.pth")


def told_epoch(line: dict[str, Any], state: State, options: Options) -> str:
    """Return an epoch's metrics as one line."""
    best = "best" if state.best_epoch == line["epoch"] else f"best {state.best_f1:.4f} in epoch {state.best_epoch}"
    return (
        f"epoch {line['epoch']}/{options.epochs}  loss {line['train_loss']:.4f}  val loss {line['val_loss']:.4f}"
        f"  F1 {line['f1']:.4f}  IoU {line['iou']:.4f}  accuracy {line['accuracy']:.4f}  lr {line['lr']:.0e}"
        f"  {line['seconds']:.1f} s  {line['images_per_second']:.0f} images/s  {best}"
    )


def score_test(state: State, loaders: Loaders, options: Options, device: "torch.device") -> dict[str, Any]:
    """Return best.pt's scores on the test split; write its predictions, zipped, and then test_metrics.json."""
    best = options.outdir / "best.pt"
    fit_tensors(state.model, load_tensors(best), best, " with ".join(options.kind.values()))
    with whole_file(options.outdir / f"{options.published_name}.zip") as part, zipfile.ZipFile(part, "w") as archive:
        names = iter(loaders.test_pairs.names)

        def take(predictions: np.ndarray) -> None:
            for labels in predictions:
                # A fixed date, so that the same predictions are the same bytes.
                entry = zipfile.ZipInfo(f"pred_{next(names)}.png", date_time=(1980, 1, 1, 0, 0, 0))
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, png_of_mask(labels))

        loss, matrix = evaluate(state.model, batches_of(loaders.test, "test"), device, take)
    if not np.isfinite(loss):
        raise UserError(f"the loss on the test split is {loss}; train again with a lower --lr and another --outdir")
    found = {
        **{"images": len(loaders.test_pairs), "epochs": state.epoch, "best_epoch": state.best_epoch},
        **{"stopped_early": state.epoch - state.best_epoch >= options.patience, "loss": loss},
        **scores(matrix),
        **{"class_names": CLASS_NAMES, "confusion_matrix": matrix.tolist()},  # rows are the truth
    }
    write_json(options.outdir / "test_metrics.json", found)
    return found


def is_finished(options: Options) -> bool:
    """Return whether the run folder has the test scores of a training that would not go on.

    Raises:
        UserError: the folder is of a run with other options, or does not say of which.
    """
    record, last, tested = (options.outdir / name for name in ("run.json", "last.pt", "test_metrics.json"))
    if record.exists():
        check_same_options(record, asdict(options), FREE_OPTIONS)
    elif last.exists():
        raise UserError(f"{last} lacks the run.json that tells of what run it is; delete it, or name another --outdir")
    if not tested.exists():
        return False
    found = read_json(tested)
    return found["stopped_early"] or found["epochs"] >= options.epochs


def run(options: Options) -> None:
    """Train and test in the run folder, from wherever it stands."""
    share_cores()
    import torch

    device = choose_device(options.device)
    record, last = options.outdir / "run.json", options.outdir / "last.pt"
    torch.manual_seed(options.seed)  # for the weights that are drawn
    model = build_model(options.arch, options.encoder, "none" if last.exists() else options.encoder_weights)
    loaders = make_loaders(options, device)
    check_takes(model, loaders.train.dataset.size, torch.device("cpu"))
    state = new_state(options, model, device)
    if last.exists():
        for name, value in load_state(last, options.kind, state.parts).items():
            setattr(state, name, value)
    begin_run(record, asdict(options), PACKAGES, told_device(device), FREE_OPTIONS)
    remove_parts(options.outdir)
    keep_epochs(options.outdir / "metrics.jsonl", state.epoch)
    if state.epoch and state.best_epoch == state.epoch:
        save_best(state, options)  # the kill may have come between last.pt and best.pt
    click.echo(f"Writes {options.outdir}/{{last.pt,best.pt,best_*.pth,metrics.jsonl,test_metrics.json,*.zip,run.json}}")
    click.echo(f"{' with '.join(options.kind.values())} on {told_device(device)}, {state.epoch} epochs done before")
    run_id = f"{mixed_seed(*read_json(record)['started'].encode(), *str(options.outdir.resolve()).encode()):016x}"
    with (
        memory_told("lower --batch-size"),
        wandb_log(options.wandb_project, options.outdir, read_json(record)["options"], run_id) as log,
    ):
        train(state, loaders, options, device, log)
        found = score_test(state, loaders, options, device)
        log({"test": {name: found[name] for name in ("loss", "accuracy", *SCORES)}})
    click.echo(f"Test split, {found['images']:,} images, weights of epoch {found['best_epoch']}")
    click.echo(score_table(found))


@click.command(cls=Command)
@data_option
@click.option(
    "--train",
    type=click.Choice(["train", "synth", GENERATED]),
    multiple=True,
    default=("train",),
    show_default=True,
    help="What to train on; repeat it to add synth/ or train/generated/ to the real images.",
)
@click.option(
    "--arch",
    type=click.Choice(ARCHITECTURES, case_sensitive=False),
    default="Segformer",
    show_default=True,
    help="The model.",
)
@click.option("--encoder", default="efficientnet-b7", show_default=True, help="Its encoder; tu-NAME for any of timm's.")
@click.option(
    "--encoder-weights",
    default="imagenet",
    show_default=True,
    metavar="imagenet|none|FILE",
    help="Where the encoder starts: weights from the hub, drawn, or the state dict in FILE (safetensors or .pt).",
)
@click.option("--epochs", type=click.IntRange(1), default=20, show_default=True, help="At most; may be raised later.")
@click.option("--batch-size", type=click.IntRange(2), default=24, show_default=True, help="Images a step.")
@click.option("--lr", type=click.FloatRange(0, min_open=True), default=1e-3, show_default=True, help="AdamW's.")
@click.option(
    "--patience", type=click.IntRange(1), default=5, show_default=True, help="Epochs without a better F1 to stop after."
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=min(MOST_WORKERS, os.cpu_count() or 1),
    show_default=f"one per core, at most {MOST_WORKERS}",
    help="Processes that read images.",
)
@seed_option
@click.option(
    "--outdir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("segmentation"),
    show_default=True,
    help="The run's folder.",
)
@limit_option
@device_option
@wandb_option
def main(**options: Any) -> None:
    r"""Train a segmenter and score it on the test split.

    \b
    Reads   ARAS400k/{train,val,test}/{images,masks}, and what --train names
    Writes  segmentation/best.pt, the same as best_ARAS400k_<Arch>_<encoder>.pth (weights of the best epoch)
            segmentation/test_metrics.json, ARAS400k_<Arch>_<encoder>.zip (test predictions, pred_<name>.png)
            segmentation/metrics.jsonl (a line per epoch), last.pt (to go on from), run.json

    \b
    Example  python segmentation_train.py
             python segmentation_train.py --train train --train synth --arch UnetPlusPlus --outdir both
             python segmentation_train.py --encoder tu-tf_efficientnet_lite0 --encoder-weights none --limit 100

    --limit takes the first N pairs of each split and set. F1 and IoU are means over the classes that the split has.

    To resume, run the same command again.
    """
    settings = Options(**options)
    with sole_writer(settings.outdir):
        if is_finished(settings):
            click.echo(f"Finished already, see {settings.outdir / 'test_metrics.json'}")
        else:
            run(settings)


if __name__ == "__main__":
    main()
