"""Stage 4: train a land-cover segmenter on the dataset and score it on the test split.

Run bare it follows the paper (arXiv 2603.09625, segmentation experiments): a Segformer decoder on an ImageNet
EfficientNet-B7, multiclass Dice loss, AdamW, flips, quarter turns and brightness/contrast, a learning rate cut
tenfold when the validation macro F1 stands still, an early stop, and the best epoch's weights scored on every pixel of
the real test split. `--train` adds synthetic images to the real ones, which is the paper's question.

Everything random is a function of (seed, epoch, index) or (seed, epoch, step), so a run that was killed continues after
its last finished epoch as if nothing had happened, and workers hold no state that could matter.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from aras.checkpoints import fit_tensors, load_tensors, save_state
from aras.command import Command, data_option, device_option, limit_option, seed_option, wandb_option, workers_option
from aras.confusion import SCORES, score_table, scores
from aras.errors import UserError
from aras.evaluation import evaluate
from aras.files import read_json, remove_parts, sole_writer, write_json
from aras.inference import check_takes
from aras.learning import (
    State,
    check_finite,
    dice_loss,
    is_over,
    mend_best,
    new_state,
    predict_test,
    resume,
    save_best,
    told_epoch,
    train_epoch,
)
from aras.legend import CLASS_NAMES
from aras.loading import LOADER_WORKERS, EpochBatches, PairSet, PaperAugmentation, batches_of, loader_of
from aras.pairs import GENERATED, find_pairs, image_size, told_size
from aras.runs import FREE, begin_run, check_same_options
from aras.segmenter import ARCHITECTURES, STRIDE, build_model, published_name
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

FREE_OPTIONS = FREE | {"epochs", "outdir"}
"""`--epochs` may be raised to train on: nothing in the recipe depends on how many are to come.

run.json keeps those of the first command; test_metrics.json and last.pt tell how many there were.
"""

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

    @property
    def best_files(self) -> tuple[Path, Path]:
        """The best epoch's weights: best.pt, and the same under the published name."""
        return self.outdir / "best.pt", self.outdir / f"best_{self.published_name}.pth"

    @property
    def predictions(self) -> Path:
        """The zip of the test split's predictions."""
        return self.outdir / f"{self.published_name}.zip"


@dataclass
class Loaders:
    """The batches of the three splits, the names of the test split's images, and what tells the pairs of each set."""

    train: Any
    val: Any
    test: Any
    names: np.ndarray
    sets: dict[str, str]


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
    told_sets = {
        name: pairs.told for name, pairs in zip((*options.train, "val", "test"), (*sets, val, test), strict=True)
    }
    return Loaders(loader_of(train, drawn, options.workers, device), val_loader, test_loader, test.names, told_sets)


def train(state: State, loaders: Loaders, options: Options, device: "torch.device", log: Log) -> None:
    """Train until the epochs are done or an early stop, keeping metrics.jsonl, last.pt and best.pt after each epoch.

    Written in this order a kill does no harm: on resume, metrics beyond last.pt are dropped, and a best.pt behind
    last.pt is written again from it.
    """
    while not is_over(state, options.epochs, options.patience):
        began, epoch = time.perf_counter(), state.epoch + 1
        loaders.train.batch_sampler.epoch = epoch
        rate = state.optimizer.param_groups[0]["lr"]
        train_loss = train_epoch(state, loaders.train, options.seed, device)
        trained = time.perf_counter() - began
        check_finite(state, {"loss": train_loss}, options.outdir)
        validation = evaluate(state.model, batches_of(loaders.val, f"val {epoch}"), device, dice_loss())
        val_loss = validation.loss
        check_finite(state, {"loss": train_loss, "validation loss": val_loss}, options.outdir)
        found = scores(validation.matrix)
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
            save_best(state, *options.best_files)
        click.echo(told_epoch(line, state, options.epochs))
        log(line)


def score_test(state: State, loaders: Loaders, options: Options, device: "torch.device") -> dict[str, Any]:
    """Return best.pt's scores on the test split; write its predictions, zipped, and then test_metrics.json."""
    best, _ = options.best_files
    fit_tensors(state.model, load_tensors(best), best, " with ".join(options.kind.values()))
    tested = predict_test(state.model, batches_of(loaders.test, "test"), loaders.names, options.predictions, device)
    if not np.isfinite(tested.loss):
        raise UserError(
            f"the loss on the test split is {tested.loss}; train again with a lower --lr and another --outdir"
        )
    found = {
        **{"images": len(loaders.names), "epochs": state.epoch, "best_epoch": state.best_epoch},
        **{"stopped_early": state.epoch - state.best_epoch >= options.patience, "loss": tested.loss},
        **scores(tested.matrix),
        **{"class_names": CLASS_NAMES, "confusion_matrix": tested.matrix.tolist()},  # rows are the truth
    }
    write_json(options.outdir / "test_metrics.json", found)
    return found


def is_finished(options: Options) -> bool:
    """Return whether the run folder has all results of a training that would not go on.

    Raises:
        UserError: the folder is of a run with other options, does not say of which, or lacks what cannot be made again.
    """
    record, last, tested = (options.outdir / name for name in ("run.json", "last.pt", "test_metrics.json"))
    if record.exists():
        check_same_options(record, asdict(options), FREE_OPTIONS)
    elif last.exists():
        raise UserError(f"{last} lacks the run.json that tells of what run it is; delete it, or name another --outdir")
    if not tested.exists():
        return False
    found = read_json(tested)
    if not isinstance(found, dict) or not {"stopped_early", "epochs"} <= found.keys():
        raise UserError(f"{tested} does not tell of a test; delete it and run the same command again")
    missing = [path for path in (*options.best_files, options.predictions) if not path.exists()]
    over = found["stopped_early"] or found["epochs"] >= options.epochs
    if over and missing and not last.exists():
        raise UserError(
            f"{missing[0]} is missing, and without {last.name} it cannot be made again; delete {options.outdir} to"
            " train again"
        )
    return over and not missing


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
    state = new_state(model, options.lr, loaders.sets, device)
    if last.exists():
        resume(state, last, options.kind)
    begin_run(record, asdict(options), PACKAGES, told_device(device), FREE_OPTIONS)
    remove_parts(options.outdir)
    keep_epochs(options.outdir / "metrics.jsonl", state.epoch)
    if state.epoch:
        mend_best(state, *options.best_files)
    click.echo(f"Writes {options.outdir}/{{last.pt,best.pt,best_*.pth,metrics.jsonl,test_metrics.json,*.zip,run.json}}")
    click.echo(f"{' with '.join(options.kind.values())} on {told_device(device)}, {state.epoch} epochs done before")
    told = read_json(record)
    run_id = f"{mixed_seed(*str(told.get('started')).encode(), *str(options.outdir.resolve()).encode()):016x}"
    with (
        memory_told("lower --batch-size"),
        wandb_log(options.wandb_project, options.outdir, told["options"], run_id, click.echo) as log,
    ):
        train(state, loaders, options, device, log)
        found = score_test(state, loaders, options, device)
        log({"test": {name: found[name] for name in ("loss", "accuracy", *SCORES)}})
    click.echo(f"Test split, {found['images']:,} images, weights of epoch {found['best_epoch']}")
    click.echo(score_table(found))


def each_once(context: click.Context, parameter: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return `names`; one that is there twice is a usage error, for its images would count double."""
    if len(set(names)) < len(names):
        raise click.BadParameter(f"each set once, not {', '.join(names)}", context, parameter)
    return names


@click.command(cls=Command)
@data_option
@click.option(
    "--train",
    type=click.Choice(["train", "synth", GENERATED]),
    multiple=True,
    default=("train",),
    show_default=True,
    callback=each_once,
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
@workers_option(LOADER_WORKERS)
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
    if not settings.data.is_dir():
        raise UserError(f"{settings.data} is not a folder; make the dataset first (dataset_creator.py), or name --data")
    with sole_writer(settings.outdir):
        if is_finished(settings):
            click.echo(f"Finished already, see {settings.outdir / 'test_metrics.json'}")
        else:
            run(settings)


if __name__ == "__main__":
    main()
