"""Stage 3a: train a conditional GAN that draws satellite images of land-cover masks, then draw one for each mask.

The generator is a U-Net whose expanding path is modulated by the mask at every scale (SPADE, arXiv 1903.07291), with
noise throughout, so that one mask has many images. The discriminator is a U-Net that gives each pixel a class or
"fake" (OASIS, arXiv 2012.04781) and the whole image a global score. `--recipe published` trains the published recipe
instead (arXiv 2603.09625, conditional generation): a plain SPADE decoder, a patch discriminator and a perceptual term.

Everything random is a function of (seed, step, place in the batch), so a run that was killed continues from its last
checkpoint as if nothing had happened, and processes that torchrun starts train what one process would train. What is
drawn of a mask is a function of (seed, name, sample).
"""

from contextlib import nullcontext
from dataclasses import asdict, fields
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
from aras.distributed import from_first, is_first, process_group
from aras.errors import UserError
from aras.feature_spaces import FEATURES
from aras.files import read_json, sole_writer
from aras.loading import LOADER_WORKERS
from aras.pairs import GENERATED
from aras.ranks import device_of, rank_of_process
from aras.spade.data import FREE_OPTIONS, Options, share_of_batch, train_loader, training_set
from aras.spade.gallery import Gallery, draw_gallery
from aras.spade.run_folder import RECIPES
from aras.spade.state import new_state, resume
from aras.tracking import wandb_log
from aras.training import choose_device, memory_told, mixed_seed, share_cores, workers_told

if TYPE_CHECKING:
    import torch

    from aras.spade.recipes import Recipe

PRECISIONS = ("auto", "bf16", "fp32")  # fp16 would need its loss scaled, which penalties of gradients do not bear
EMA_KIMG = 10.0
DRAW_BATCH = 32
"""Images that a process draws at once after a training, whose own batch is shared out by all processes."""

JUDGE = Path("segmentation/best.pt")

ONLY_DRAWING = {"weights", "masks", "output", "samples_per_mask", "truncation"}
"""What is for --sample-only alone, and what it knows besides."""
ALSO_DRAWING = {"sample_only", "data", "outdir", "recipe", "width", "batch_size", "seed", "workers", "limit", "device"}
ONLY_RECIPE = {"label_mix": RECIPES[0], "augment": RECIPES[0], "augment_target": RECIPES[0], "vgg": RECIPES[1]}
"""Options that one recipe alone has."""


def tell(message: str) -> None:
    """Print `message`, once however many processes there are."""
    if is_first():
        click.echo(message)


def default_judge(record: Path) -> Path | None:
    """Return the judge of a training that is not given one: the pipeline's if it is there, and there was when it began.

    `record` is the training's run.json. A segmenter that was trained since is not taken, so that the training goes on.
    """
    told = read_json(record) if record.is_file() else None
    options = told.get("options") if isinstance(told, dict) else None
    began_without = isinstance(options, dict) and options.get("judge") is None
    return JUDGE if JUDGE.is_file() and not began_without else None


def load_recipe(options: dict[str, Any], device: "torch.device") -> "tuple[Recipe, Options]":
    """Return the recipe, and the options of a training with what `options` left to it; say what it goes without."""
    from aras.spade.perceptual import load_perceptual
    from aras.spade.recipes import recipe_named

    chosen, perceptual = {field.name: options[field.name] for field in fields(Options)}, None
    if chosen["recipe"] == "published":
        from_first(lambda: load_perceptual(chosen["vgg"]) is not None)  # one process downloads, if any does
        perceptual = load_perceptual(chosen["vgg"])
        if perceptual:
            perceptual.to(device)
        else:
            tell("The published recipe goes without its perceptual term: there are no weights of VGG19 (--vgg)")
    recipe = recipe_named(chosen["recipe"], chosen["label_mix"], perceptual)
    left = {
        "lr_generator": recipe.generator_lr,
        "lr_discriminator": recipe.discriminator_lr,
        "ema_kimg": EMA_KIMG if recipe.averages else 0.0,
        "judge": default_judge(options["outdir"] / "run.json"),
    }
    chosen |= {name: default for name, default in left.items() if chosen[name] is None}
    chosen |= {} if perceptual else {"vgg": "none"}
    chosen |= {} if recipe.augments else {"augment": "none"}
    return recipe, Options(**chosen)


def train_in_folder(options: Options, recipe: "Recipe", device: "torch.device") -> None:
    """Train in the run folder, from wherever it stands, and write its result."""
    import torch

    from aras.spade.learning import Setting, precision_of_gan
    from aras.spade.loop import Course, train
    from aras.spade.snapshots import Snapshots, begin_folder, open_quality, shown_pairs

    folder = options.folder
    found = training_set(options)
    tell(f"Reads {options.data}: {found.told}")
    quality = open_quality(options, found, device, tell)
    torch.manual_seed(options.seed)  # for the weights that are drawn
    resumes = from_first(folder.last.exists)
    state = new_state(recipe, options, found, device, resumes)
    if resumes:
        resume(state, folder.last, folder.kind)
    told = from_first(lambda: begin_folder(options, state, device, tell))
    if quality:
        tell(quality.told())
        if state.measure_in(f"{quality.space.name} {quality.space.digest}"):
            tell("The weights that features come from are others than before: the best snapshot is chosen anew")
    share = share_of_batch(options.batch_size)
    setting = Setting(
        recipe=recipe,
        seed=options.seed,
        batch_size=options.batch_size,
        micro_batch=min(options.micro_batch or share.stop, share.stop - share.start),
        augment=options.augment,
        target=options.augment_target,
        device=device,
        precision=precision_of_gan(options.precision, device),
        tell=tell,
    )
    run_id = f"{mixed_seed(*str(told.get('started')).encode(), *str(options.outdir.resolve()).encode()):016x}"
    project = options.wandb_project if is_first() else None
    with (
        memory_told("lower --width, or make smaller patches"),
        workers_told(),
        wandb_log(project, options.outdir, told["options"], run_id, click.echo) as log,
    ):
        shown = shown_pairs(options, found, quality)
        snapshots = Snapshots(options, found, shown, quality, device, tell, log)
        loader = train_loader(found, options, device)
        train(state, Course(options, found, loader, setting, snapshots.take))
        if is_first():
            snapshots.write_result(state)
    tell(
        f"Trained {state.step:,} steps in {state.seconds / 60:.1f} minutes; the best weights are those of step"
        f" {state.best_step:,}, in {folder.best}"
    )


def train_and_draw(recipe: "Recipe", options: Options, device: "torch.device") -> None:
    """Train in the run folder, alone in it, if there is anything left to do; then draw an image of each mask."""
    gallery = Gallery(
        *(options.folder.best, options.recipe, options.width, options.data / "train" / "masks"),
        *(options.data / "train" / GENERATED, 1, options.seed, 1.0),
        *(min(options.batch_size, DRAW_BATCH), options.workers, options.limit),
    )
    with sole_writer(options.outdir) if is_first() else nullcontext():
        finished = from_first(lambda: options.folder.is_finished(asdict(options), FREE_OPTIONS))
        if finished:
            tell(f"Finished already, see {options.folder.result}")
        else:
            if options.draw:
                from_first(gallery.check_unbegun)
            train_in_folder(options, recipe, device)
        if options.draw:
            draw_gallery(gallery, device, tell)


def drawing_options(options: dict[str, Any], given: set[str]) -> Gallery:
    """Return what --sample-only draws; the recipe and width are those that the weights tell unless `given`."""
    return Gallery(
        weights=options["weights"] or options["outdir"] / "best.pt",
        recipe=options["recipe"] if "recipe" in given else None,
        width=options["width"] if "width" in given else None,
        masks=options["masks"] or options["data"] / "train" / "masks",
        output=options["output"] or options["data"] / "train" / GENERATED,
        **{
            name: options[name] for name in ("samples_per_mask", "seed", "truncation", "batch_size", "workers", "limit")
        },
    )


def check_usage(context: click.Context, options: dict[str, Any]) -> set[str]:
    """Return the names of the options that were given; raise `click.UsageError` for some that do not go together."""
    given = {name for name in options if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT}
    foreign = given - ONLY_DRAWING - ALSO_DRAWING if options["sample_only"] else given & ONLY_DRAWING
    if foreign:
        told = "is for a training; leave it or --sample-only out" if options["sample_only"] else "is for --sample-only"
        raise click.UsageError(f"--{min(foreign).replace('_', '-')} {told}", context)
    for name in sorted(given & ONLY_RECIPE.keys()):
        if options["recipe"] != ONLY_RECIPE[name]:
            raise click.UsageError(f"--{name.replace('_', '-')} is for --recipe {ONLY_RECIPE[name]}", context)
    if "augment_strength" in given and options["augment"] != "fixed":
        raise click.UsageError("--augment-strength is for --augment fixed; ada finds its own", context)
    if "features_weights" in given and options["features"] == "encoder":
        raise click.UsageError("--features-weights is for other --features; the encoder is that of --judge", context)
    return given


@click.command(cls=Command)
@data_option
@click.option(
    "--recipe",
    type=click.Choice(RECIPES),
    default=RECIPES[0],
    show_default=True,
    help="Networks and losses: ours, or the published ones to compare with.",
)
@click.option("--width", type=click.IntRange(4), default=64, show_default=True, help="Base channels of both networks.")
@click.option("--epochs", type=click.IntRange(1), default=20, show_default=True, help="Passes; may be raised later.")
@click.option(
    "--minutes",
    type=Number(0, min_open=True),
    help="Stop after so much wall clock of training steps, resumed ones counted; may be raised later.",
)
@click.option(
    "--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Images a step, over all processes."
)
@click.option(
    "--micro-batch",
    type=click.IntRange(1),
    help="Images that a process computes on at once.  [default: all; halved while a GPU has too little memory]",
)
@click.option("--lr-generator", type=Number(0, min_open=True), help="Adam's.  [default: the recipe's]")
@click.option("--lr-discriminator", type=Number(0, min_open=True), help="Adam's.  [default: the recipe's]")
@click.option(
    "--ema-kimg",
    type=Number(0),
    help="Half-life of the average of the generator's weights, in 1000 images; 0 is off."
    f"  [default: {EMA_KIMG:g}, and off for published]",
)
@click.option("--label-mix", type=Number(0), default=10.0, show_default=True, help="Weight of LabelMix.")
@click.option(
    "--augment",
    type=click.Choice(["ada", "fixed", "none"]),
    default="ada",
    show_default=True,
    help="Changes that the discriminator sees images under, so that it learns no small set by heart: of a strength that"
    " adapts, is fixed, or is 0. Turns and mirror images are always on.",
)
@click.option(
    "--augment-target",
    type=Number(0, 1),
    default=0.6,
    show_default=True,
    help="The mean sign of scores of real images over which ada gets stronger.",
)
@click.option(
    "--augment-strength", type=Number(0, 1), default=0.2, show_default=True, help="Chance of each change, for fixed."
)
@click.option(
    "--vgg",
    default="auto",
    show_default=True,
    metavar="auto|none|FILE",
    help="VGG19's weights for the published perceptual term; auto looks where PyTorch keeps downloads, and fetches.",
)
@click.option(
    "--snapshot-kimg",
    type=Number(0, min_open=True),
    default=20.0,
    show_default=True,
    help="Measure, draw samples and keep the best weights every so many 1000 images.",
)
@click.option(
    "--judge",
    type=click.Path(path_type=Path, dir_okay=False),
    show_default=f"{JUDGE} if it is there",
    help="Trained segmenter: its labels of drawn images should be the mask, and its encoder gives features.",
)
@click.option(
    "--features",
    type=click.Choice(FEATURES),
    default=FEATURES[0],
    show_default=True,
    help="The space of the Fréchet distance: the judge's encoder, Inception (FID) or DINOv2.",
)
@click.option(
    "--features-weights", type=click.Path(path_type=Path, dir_okay=False), help="Weights of Inception or DINOv2."
)
@click.option(
    "--quality-split",
    type=click.Choice(["val", "test"]),
    default="val",
    show_default=True,
    help="Whose masks are drawn from to measure by.",
)
@click.option(
    "--quality-samples", type=click.IntRange(1), default=4, show_default=True, help="Images of each of those masks."
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="auto",
    show_default=True,
    help="auto is bf16 on a GPU that has it, else fp32.",
)
@click.option(
    "--checkpoint-minutes",
    type=Number(0),
    default=15.0,
    show_default=True,
    help="Write last.pt this often between snapshots too; 0 for every step.",
)
@click.option("--draw/--no-draw", default=True, show_default=True, help="Draw train/generated when training is over.")
@workers_option(LOADER_WORKERS)
@seed_option
@click.option(
    "--outdir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("spade"),
    show_default=True,
    help="The run's folder.",
)
@limit_option
@device_option
@wandb_option
@click.option("--sample-only", is_flag=True, help="Train nothing: draw images of --masks by --weights.")
@click.option(
    "--weights",
    type=click.Path(path_type=Path, dir_okay=False),
    show_default="OUTDIR/best.pt",
    help="The generator; its recipe and width are those of the run.json beside it, or given.",
)
@click.option(
    "--masks",
    type=click.Path(path_type=Path, file_okay=False),
    show_default="DATA/train/masks",
    help="Folder of masks in the legend's colours, of any sizes that are multiples of 32.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    show_default=f"DATA/train/{GENERATED}",
    help="Folder for <name>.png, or <name>_<k>.png with more than one of each.",
)
@click.option("--samples-per-mask", type=click.IntRange(1), default=1, show_default=True, help="Images of each mask.")
@click.option(
    "--truncation",
    type=Number(0),
    default=1.0,
    show_default=True,
    help="What z is multiplied by: under 1, images are more alike and more typical.",
)
@click.pass_context
def main(context: click.Context, **options: Any) -> None:
    r"""Train a conditional GAN on image-mask pairs, then draw an image of each mask.

    \b
    Reads   ARAS400k/train/{images,masks}; for quality ARAS400k/val/{images,masks} and segmentation/best.pt
    Writes  ARAS400k/train/generated/<name>.png, drawn by the best weights; run.json beside them tells by which
            spade/best.pt, the same as trained_generator_single_set_2.pth: the generator of the best snapshot
            spade/metrics.jsonl (a line per snapshot), quality.json, result.json, curves.png
            spade/samples/<kimg>.png: masks, real images, three samples each
            spade/last.pt (to go on from), run.json
            with --sample-only: images and run.json in --output, failures.csv when a mask could not be read

    \b
    Example  python generative_trainer_unet_spade_gan.py
             python generative_trainer_unet_spade_gan.py --recipe published --outdir published --no-draw
             python generative_trainer_unet_spade_gan.py --sample-only --masks ARAS400k/val/masks --output drawn \
                 --samples-per-mask 4
             torchrun --standalone --nproc-per-node 8 generative_trainer_unet_spade_gan.py --batch-size 256

    The best snapshot is the one of the lowest Fréchet distance between images drawn of held-out masks and the real
    ones, the newest where there is nothing to measure by. Under torchrun, --batch-size is shared out over the
    processes, --workers is for each.

    To resume, run the same command again. An image older than its mask is drawn again.
    """
    given = check_usage(context, options)
    share_cores()
    with process_group():
        device = device_of(rank_of_process(), choose_device(options["device"]))
        if options["sample_only"]:
            draw_gallery(drawing_options(options, given), device, tell)
            return
        if not options["data"].is_dir():
            raise UserError(
                f"{options['data']} is not a folder; make the dataset first (dataset_creator.py), or name --data"
            )
        train_and_draw(*load_recipe(options, device), device)


if __name__ == "__main__":
    main()
