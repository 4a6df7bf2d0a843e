"""Stage 4: train a land-cover segmenter on the dataset and score it on the test split.

Run bare it follows the paper (arXiv 2603.09625, segmentation experiments): a Segformer decoder on an ImageNet
EfficientNet-B7, multiclass Dice loss, AdamW, flips, quarter turns and brightness/contrast, a learning rate cut
tenfold when the validation macro F1 stands still, an early stop, and the best epoch's weights scored on every pixel of
the real test split. `--train` adds synthetic images to the real ones, which is the paper's question.

Everything random is a function of (seed, epoch, index) or (seed, epoch, step), so a run that was killed continues from
its last checkpoint as if nothing had happened, and workers hold no state that could matter. Processes that torchrun
starts share out each batch, and train what one process would train.
"""

import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aras.command import (
    Command,
    Number,
    data_option,
    device_option,
    limit_option,
    seed_option,
    wandb_option,
    workers_option,
)
from aras.confusion import SCORES, score_table, scores
from aras.distributed import from_first, is_first, process_group, sum_over_ranks, world_size
from aras.errors import UserError
from aras.files import read_json, remove_parts, sole_writer, write_json
from aras.inference import PRECISIONS, check_takes, precision_of
from aras.loading import LOADER_WORKERS
from aras.pairs import GENERATED
from aras.ranks import device_of, rank_of_process
from aras.runs import FREE, begin_run
from aras.segmentation.data import Loaders, Options, digest_of_lists, lists_of, make_loaders
from aras.segmentation.evaluation import evaluate
from aras.segmentation.learning import check_finite, is_over, told_epoch, train_steps
from aras.segmentation.losses import LOSSES, loss_named
from aras.segmentation.repeats import seeds_of, summary_of, table_of
from aras.segmentation.sampling import SAMPLINGS, mix_of
from aras.segmentation.state import State, new_state, resume, save
from aras.segmentation.testing import score_test
from aras.segmenter import ARCHITECTURES, build_model, load_segmenter
from aras.tracking import Log, sample_images, wandb_log
from aras.training import (
    append_line,
    choose_device,
    compiling_told,
    keep_epochs,
    memory_told,
    mixed_seed,
    share_cores,
    told_device,
    workers_told,
)

if TYPE_CHECKING:
    import torch

FREE_OPTIONS = FREE | {"epochs", "checkpoint_minutes", "only"}
"""`--epochs` may be raised to train on: nothing in the recipe depends on how many are to come.

run.json keeps those of the first command; test_metrics.json and last.pt tell how many there were. Of the lists of
`--only`, it is their content that must stay.
"""

SAMPLE_EVERY = 5  # epochs

PACKAGES = ("torch", "segmentation-models-pytorch", "timm", "albumentations", "numpy", "pillow")


def tell(message: str) -> None:
    """Print `message`, once however many processes there are."""
    if is_first():
        click.echo(message)


def train(state: State, loaders: Loaders, options: Options, device: "torch.device", log: Log) -> None:
    """Train until the epochs are done or an early stop, keeping metrics.jsonl, last.pt and best.pt after each epoch.

    Written in this order a kill does no harm: on resume, metrics beyond last.pt are dropped, and a best.pt behind
    last.pt is written again from it. Within an epoch, last.pt alone is written.
    """
    import torch

    folder, precision = options.folder, precision_of(options.precision, device)
    loss_of, loss_of_batch = loss_named(options.loss), loss_named(options.loss, sum_over_ranks)
    model: Any = torch.compile(state.model, dynamic=False) if options.compile else state.model
    saved = time.monotonic()
    while not is_over(state, options.epochs, options.patience):
        began, epoch, before = time.perf_counter(), state.epoch + 1, state.seen
        rate = state.optimizer.param_groups[0]["lr"]
        for _ in train_steps(state, model, loaders.train, loss_of_batch, options.seed, device, precision):
            if is_first() and time.monotonic() - saved >= 60 * options.checkpoint_minutes:
                check_finite(state, {"loss": state.loss}, options.outdir)
                save(state, folder.last, folder.kind)
                saved = time.monotonic()
        train_loss, images = state.loss, state.seen - before
        trained = time.perf_counter() - began
        check_finite(state, {"loss": train_loss}, options.outdir)
        validation = evaluate(state.judged, loaders.val, f"val {epoch}", device, loss_of, precision)
        check_finite(state, {"loss": train_loss, "validation loss": validation.loss}, options.outdir)
        found = scores(validation.matrix)
        state.end_epoch(found["f1"])
        line: dict[str, Any] = {"epoch": epoch, "train_loss": train_loss, "val_loss": validation.loss}
        line |= {name: found[name] for name in ("accuracy", *SCORES)}
        line |= {"class_iou": {name: row["iou"] for name, row in found["classes"].items()}, "lr": rate}
        line |= {"seconds": round(time.perf_counter() - began, 3), "images_per_second": round(images / trained, 2)}
        if is_first():
            append_line(folder.metrics, line)
            save(state, folder.last, folder.kind)
            if state.best_epoch == epoch:
                folder.save_best(state.judged.state_dict())
        saved = time.monotonic()
        tell(told_epoch(line, state, options.epochs))
        log(line | samples(state, loaders, options, device))


def samples(state: State, loaders: Loaders, options: Options, device: "torch.device") -> dict[str, Any]:
    """Return what W&B shows of some validation images, in the first of every `SAMPLE_EVERY` epochs."""
    if not options.wandb_project or not is_first() or (state.epoch - 1) % SAMPLE_EVERY:
        return {}
    val, precision = loaders.val.dataset, precision_of(options.precision, device)
    return {"samples": sample_images(state.judged, val.sets[0], val.size, device, precision)}


def begin(options: Options, state: State, device: "torch.device") -> dict[str, Any]:
    """Return what run.json tells, and make the run folder fit `state`."""
    folder = options.folder
    begin_run(folder.record, asdict(options), PACKAGES, told_device(device), FREE_OPTIONS)
    remove_parts(options.outdir)
    keep_epochs(folder.metrics, state.epoch)
    if state.epoch:
        folder.mend_best(state.epoch, state.best_epoch, None if state.step else state.judged.state_dict())
    click.echo(f"Writes {options.outdir}/{{last.pt,best.pt,best_*.pth,metrics.jsonl,test_metrics.json,*.zip,run.json}}")
    processes = f" in {world_size()} processes" if world_size() > 1 else ""
    steps = f" and {state.step} steps" if state.step else ""
    click.echo(f"{folder.told_kind} on {told_device(device)}{processes}, {state.epoch} epochs{steps} done before")
    return read_json(folder.record)


def first_model(options: Options, resumes: bool) -> "torch.nn.Module":
    """Return the model before the first step; its weights do not matter if the run `resumes`."""
    if options.init_weights and not resumes:
        return load_segmenter(options.init_weights, options.arch, options.encoder)
    return build_model(options.arch, options.encoder, "none" if resumes else options.encoder_weights)


def run(options: Options) -> None:
    """Train and test in the run folder, from wherever it stands."""
    import torch

    from aras.batch_norm import synchronised

    folder = options.folder
    device = device_of(rank_of_process(), choose_device(options.device))
    resumes = from_first(folder.last.exists)
    torch.manual_seed(options.seed)  # for the weights that are drawn
    model = first_model(options, resumes)
    loaders = make_loaders(options, device)
    tell(f"Reads {options.data}: {loaders.told}")
    check_takes(model, loaders.train.dataset.size, torch.device("cpu"))
    precision = precision_of(options.precision, device)
    state = new_state(synchronised(model, device), options.lr, options.ema, loaders.sets, device, precision)
    if resumes:
        resume(state, folder.last, folder.kind)
    told = from_first(lambda: begin(options, state, device))
    run_id = f"{mixed_seed(*str(told.get('started')).encode(), *str(options.outdir.resolve()).encode()):016x}"
    project = options.wandb_project if is_first() else None
    with (
        memory_told("lower --batch-size"),
        workers_told(),
        compiling_told(folder.told_kind) if options.compile else nullcontext(),
        wandb_log(project, options.outdir, told["options"], run_id, click.echo) as log,
    ):
        train(state, loaders, options, device, log)
        found = score_test(state, loaders, options, device)
        told_test = {name: found[name] for name in ("loss", "accuracy", *SCORES)}
        told_test |= {"class_iou": {name: row["iou"] for name, row in found["classes"].items()}}
        figures = {"curves": folder.curves, "confusion_matrix": folder.confusion}
        log({"epoch": state.epoch, "test": told_test, **figures})
    tell(f"Test split, {found['images']:,} images, weights of epoch {found['best_epoch']}")
    tell(score_table(found))


def run_unless_finished(options: Options) -> None:
    """Train and test in the run folder, alone in it, if there is anything left to do."""
    with sole_writer(options.outdir) if is_first() else nullcontext():
        if from_first(lambda: options.folder.is_finished(asdict(options), FREE_OPTIONS, options.epochs)):
            tell(f"Finished already, see {options.folder.tested}")
        else:
            run(options)


def run_each(options: Options, seeds: tuple[int, ...]) -> None:
    """Train and test with each of `seeds`, in a folder of its own, and write seeds.json, which sums them up."""
    runs = {seed: replace(options, seed=seed, outdir=options.outdir / f"seed_{seed}") for seed in seeds}
    for seed, one in runs.items():
        tell(f"Seed {seed}, in {one.outdir}")
        run_unless_finished(one)
    if is_first():
        summary = summary_of({seed: read_json(one.folder.tested) for seed, one in runs.items()})
        write_json(options.outdir / "seeds.json", summary)
        tell(table_of(summary))


def each_once(context: click.Context, parameter: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return `names`; one that is there twice is a usage error, for its images would count double."""
    if len(set(names)) < len(names):
        raise click.BadParameter(f"each set once, not {', '.join(names)}", context, parameter)
    return names


def parsed(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """Return the seeds in `text`; what is none is a usage error."""
    try:
        return seeds_of(text) if text else None
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from None


def check_usage(context: click.Context, options: dict[str, Any]) -> None:
    """Raise `click.UsageError` for options that do not go together."""
    if options["mix"]:
        try:
            mix_of(options["mix"], len(options["train"]))
        except ValueError as error:
            raise click.BadParameter(str(error), context, param_hint="'--mix'") from None
    try:
        lists = lists_of(options["only"])
    except ValueError as error:
        raise click.BadParameter(str(error), context, param_hint="'--only'") from None
    unused = [name for name in lists if name not in options["train"]]
    if unused:
        raise click.BadParameter(
            f"{unused[0]} is not trained on; add --train {unused[0]}", context, param_hint="'--only'"
        )
    if options["min_confidence"] and "synth" not in options["train"]:
        raise click.UsageError("--min-confidence is for labels that a model gave; add --train synth", context)
    if options["seeds"] and context.get_parameter_source("seed") == click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--seeds names every seed; leave --seed out", context)


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
    "--only",
    multiple=True,
    metavar="SET=FILE",
    help="Of a --train set, the images that FILE names, one a line, as synthetic_select.py's selected.txt; repeatable.",
)
@click.option(
    "--mix",
    metavar="1:2",
    help="A number for each --train: an epoch has the first set once, and the others in this ratio to it, each going on"
    " where the epoch before left off. Without it, an epoch has all images.",
)
@click.option(
    "--sampling",
    type=click.Choice(SAMPLINGS),
    default="uniform",
    show_default=True,
    help="balanced draws patches of rare classes more often, with replacement, within each set.",
)
@click.option(
    "--min-confidence",
    type=Number(0, 1),
    default=0.0,
    show_default=True,
    help="Ignore the pixels of synth/masks less sure than this; needs segmentation_predict.py --confidence-maps.",
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
@click.option(
    "--init-weights",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the whole model starts, instead: best.pt or the like, as of a training on synth/ alone.",
)
@click.option("--epochs", type=click.IntRange(1), default=20, show_default=True, help="At most; may be raised later.")
@click.option(
    "--batch-size", type=click.IntRange(2), default=24, show_default=True, help="Images a step, over all processes."
)
@click.option(
    "--eval-batch-size", type=click.IntRange(1), help="Images a process scores at once.  [default: --batch-size]"
)
@click.option("--lr", type=Number(0, min_open=True), default=1e-3, show_default=True, help="AdamW's.")
@click.option(
    "--loss",
    type=click.Choice(LOSSES),
    default="dice",
    show_default=True,
    help="dice+ce and focal weigh every pixel; lovasz is a stand-in for IoU, per image.",
)
@click.option(
    "--ema",
    type=Number(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    metavar="DECAY",
    help="Validate, keep and test a moving average of the weights, such as 0.999; 0 is off.",
)
@click.option(
    "--patience", type=click.IntRange(1), default=5, show_default=True, help="Epochs without a better F1 to stop after."
)
@click.option("--tta", is_flag=True, help="Test on the mean over the 8 turns and mirror images; eight times slower.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="auto",
    show_default=True,
    help="auto is bf16 on a GPU that has it, fp16 on an older one, fp32 on a CPU.",
)
@click.option("--compile", is_flag=True, help="torch.compile the model: minutes to start with, then quicker steps.")
@click.option(
    "--checkpoint-minutes",
    type=Number(0),
    default=15.0,
    show_default=True,
    help="Write last.pt this often within an epoch too; 0 for every step.",
)
@workers_option(LOADER_WORKERS)
@seed_option
@click.option(
    "--seeds",
    metavar="0,1,2",
    callback=parsed,
    help="Train with each of these seeds, in OUTDIR/seed_0 and so on, and sum up their scores in OUTDIR/seeds.json.",
)
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
@click.pass_context
def main(context: click.Context, **options: Any) -> None:
    r"""Train a segmenter and score it on the test split.

    \b
    Reads   ARAS400k/{train,val,test}/{images,masks}, and what --train and --only name
    Writes  segmentation/best.pt, the same as best_ARAS400k_<Arch>_<encoder>.pth (weights of the best epoch)
            segmentation/test_metrics.json, ARAS400k_<Arch>_<encoder>.zip (test predictions, pred_<name>.png)
            segmentation/metrics.jsonl (a line per epoch), curves.png, confusion_matrix.png
            segmentation/last.pt (to go on from), run.json

    \b
    Example  python segmentation_train.py
             python segmentation_train.py --train train --train synth --mix 1:2 --arch UnetPlusPlus --outdir both
             python segmentation_train.py --train train --train synth --only synth=selection/selected.txt
             python segmentation_train.py --encoder tu-tf_efficientnet_lite0 --encoder-weights none --limit 100
             torchrun --nproc-per-node 8 segmentation_train.py --batch-size 192

    --limit takes the first N pairs of each split and set, of those that --only leaves. F1 and IoU are means over the
    classes that the split has.
    Under torchrun, --batch-size is shared out over the processes, --workers is for each, and all need --outdir.

    To resume, run the same command again.
    """
    check_usage(context, options)
    seeds = options.pop("seeds")
    options["only_sha256"] = digest_of_lists(lists_of(options["only"]))
    settings = Options(**options)
    share_cores()
    with process_group():
        if not settings.data.is_dir():
            raise UserError(
                f"{settings.data} is not a folder; make the dataset first (dataset_creator.py), or name --data"
            )
        if seeds:
            run_each(settings, seeds)
        else:
            run_unless_finished(settings)


if __name__ == "__main__":
    main()
