"""Stage 7: is the synthetic data any good? Sets of images measured against real ones that no generator has seen.

Of equal numbers of images: Fréchet and kernel distance, precision, recall, density and coverage, memorisation and
distance by class in the features of a network; how well masks fit; power spectra, colours and which land covers border
on which. Each number has a 95 % interval and stands beside its floor, which is what other real images score (arXiv
2603.09625, whose FID against the real test split is 2.09 for real training images, 16.7 for StyleGAN's).
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aras.command import Command, cores, data_option, device_option, dry_run_option, seed_option
from aras.engines import engine_of, engine_options
from aras.errors import UserError
from aras.feature_maps.draws import folders_given
from aras.feature_spaces import FEATURES, digest_of, encoder_space, open_space
from aras.fidelity.alignment import warning
from aras.fidelity.figures import FIGURES, draw_figures, figures_of
from aras.fidelity.noise import NOISE, noise_folder, noise_names, write_noise
from aras.fidelity.running import TRAINING, Judge, Plan, check_failures, compute, measure_all, results_of
from aras.fidelity.sets import NONE, Size, Wanted, check_sizes, drawn, equal_number, find_sets, masks_beside, names_in
from aras.fidelity.table import table
from aras.files import read_json, remove_parts, sole_writer, write_json
from aras.pairs import GENERATED, SUFFIX, image_size
from aras.runs import begin_run
from aras.segmenter import OWN_WEIGHTS, PUBLISHED_WEIGHTS, load_segmenter, weights_or_default
from aras.spade.judge import TrainedOn, trained_on
from aras.training import choose_device, memory_told, share_cores, told_device, workers_told

if TYPE_CHECKING:
    import torch

    from aras.feature_spaces import FeatureSpace

PUBLISHED_SETS = {"synth": "synth/images", GENERATED: f"train/{GENERATED}"}
PACKAGES = ("torch", "segmentation-models-pytorch", "timm", "numpy", "scipy", "pillow", "joblib", "matplotlib")


def one_given(text: str | None, option: str, default: tuple[str, Path]) -> tuple[str, Path] | None:
    """Return the name and folder of `--option NAME=DIR`; None for `none`, or where its `default` is not there."""
    if text is None:
        return default if default[1].is_dir() else None
    return None if text == NONE else next(iter(folders_given([text], option).items()))


def wanted_sets(options: dict[str, Any]) -> tuple[str, str | None, dict[str, Path]]:
    """Return the name of the reference, that of the floor if there is one, and the folders of all sets by name.

    Raises:
        UserError: there is no reference or no set, or names or folders are there twice.
    """
    data: Path = options["data"]
    real = one_given(options["reference"], "reference", ("test", data / "test" / "images"))
    if real is None:
        raise UserError(f"{data / 'test' / 'images'} is missing; name real images by --reference NAME=DIR")
    floor = one_given(options["floor"], "floor", ("train", data / "train" / "images"))
    if options["floor"] is None and floor and floor[1].resolve() == real[1].resolve():
        floor = None
    there = {name: data / place for name, place in PUBLISHED_SETS.items() if (data / place).is_dir()}
    sets = folders_given(options["set"], "set") or there
    if not sets and not options["noise"]:
        raise UserError(f"{data} has neither {' nor '.join(PUBLISHED_SETS.values())}; name a set by --set NAME=DIR")
    named = [real, *([floor] if floor else []), *sets.items()]
    names = [name for name, _ in named] + [TRAINING] + ([NOISE] if options["noise"] else [])
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"two sets are named {twice}; give each of --reference, --floor and --set a name of its own")
    for name, folder in named[1:]:
        if folder.resolve() == real[1].resolve():
            raise UserError(f"{name} is the folder of the reference, {folder}; compare other images with it")
    return real[0], floor[0] if floor else None, dict(named)


def masks_of(name: str, images: Path, given: dict[str, Path]) -> Path | None:
    """Return the folder of masks of the set `name`: that `given`, or the one beside its `images` if there is one."""
    if name in given:
        return None if str(given[name]) == NONE else given[name]
    masks = masks_beside(images)
    return masks if masks.is_dir() else None


def plan_of(options: dict[str, Any]) -> Plan:
    """Return what is compared, with as many images of every set as the smallest has."""
    reference, floor, folders = wanted_sets(options)
    given = folders_given(options["masks"], "masks")
    unknown = sorted(given.keys() - folders.keys())
    if unknown:
        raise UserError(f"--masks {unknown[0]} is of no set; there are {', '.join(folders)}")
    wanted = [Wanted(name, folder, masks_of(name, folder, given)) for name, folder in folders.items()]
    names = {each.name: names_in(each) for each in wanted}
    number = equal_number(names, options["max_images"])
    names = {name: drawn(found, number, options["seed"]) for name, found in names.items()}
    size = image_size(folders[reference] / f"{names[reference][0]}{SUFFIX}")
    if options["noise"] and not options["dry_run"]:
        wanted.append(noise(options, number, size))
        names[NOISE] = noise_names(number)
    everything, training = list(wanted), training_images(options)
    if training:
        everything.append(training)
        names[TRAINING] = names_in(training)
    sets, whole = find_sets(wanted, names), find_sets(everything, names)
    check_sizes(list(whole.values()))
    return Plan(reference, floor, sets, whole, size, options["outdir"])


def noise(options: dict[str, Any], number: int, size: Size) -> Wanted:
    """Return the set of noise, after writing what is missing of it."""
    folder = noise_folder(options["outdir"], size, options["seed"])
    write_noise(folder, noise_names(number), size, options["seed"])
    return Wanted(NOISE, folder, None)


def training_images(options: dict[str, Any]) -> Wanted | None:
    """Return the images that the generators were trained on; None if there are none, or none are wanted."""
    folder = options["train_images"] or options["data"] / "train" / "images"
    if str(folder) == NONE or (options["train_images"] is None and not folder.is_dir()):
        return None
    return Wanted(TRAINING, folder, masks_of(TRAINING, folder, {}))


def open_networks(options: dict[str, Any], device: "torch.device") -> "tuple[list[FeatureSpace], Judge]":
    """Return the spaces of features and the judge.

    Raises:
        UserError: weights are missing or do not fit.
    """
    given = folders_given(options["features_weights"], "features-weights")
    foreign = sorted(given.keys() - set(options["features"]) | given.keys() & {"encoder"})
    if foreign:
        told = "the encoder is that of --weights" if foreign[0] == "encoder" else f"add --features {foreign[0]}"
        raise UserError(f"--features-weights {foreign[0]}: {told}")
    there = options["weights"] or any(path.is_file() for path in (PUBLISHED_WEIGHTS, OWN_WEIGHTS))
    judge = Judge(None, "", TrainedOn(Path(), ()))
    if there or "encoder" in options["features"]:
        import torch

        weights = options["weights"] = weights_or_default(options["weights"])
        model: Any = load_segmenter(weights, None, None)
        model = model.to(device=device, memory_format=torch.channels_last)
        judge = Judge(model, digest_of(weights), trained_on(weights))
    spaces = [
        encoder_space(judge.model, judge.digest, device)
        if name == "encoder" and judge.model is not None
        else open_space(name, given.get(name), device)
        for name in dict.fromkeys(options["features"])
    ]
    return spaces, judge


def tell(plan: Plan, options: dict[str, Any]) -> None:
    """Say what is compared."""
    for name, each in plan.whole.items():
        role = {plan.reference: "the reference", plan.floor: "the floor", TRAINING: "to find copies of"}.get(name)
        masks = f", masks in {each.folder.masks}" if each.folder.masks and name != TRAINING else ""
        click.echo(f"Reads {name}{f' ({role})' if role else ''}: {len(each):,} images of {each.images}{masks}")
    reference = plan.sets[plan.reference]
    said = warning(reference, options["weights"]) if options["weights"] and reference.folder.masks else None
    if said:
        click.echo(f"WARNING: {said}")


def write(plan: Plan, results: dict[str, Any], wants_figures: bool) -> None:
    """Write the figures, then fidelity.json, unless all is there already; figures that are not wanted go.

    fidelity.json is there only while the figures are of it, so a run that was killed between them draws them again.
    """
    path, figures = plan.outdir / "fidelity.json", figures_of(plan, results) if wants_figures else []
    told = json.loads(json.dumps(results))
    if path.is_file() and read_json(path) == told and all(figure.is_file() for figure in figures):
        return
    path.unlink(missing_ok=True)
    if wants_figures:
        draw_figures(plan, results)
    else:
        for name in FIGURES:
            (plan.outdir / name).unlink(missing_ok=True)
    write_json(path, results)


def run(plan: Plan, options: dict[str, Any]) -> None:
    """Measure everything and write it."""
    share_cores()
    device = choose_device(options["device"])
    spaces, judge = open_networks(options, device)
    tell(plan, options)
    batch_size = options["batch_size"] or (64 if device.type == "cuda" else 8)  # more do not fit a CPU's caches
    symmetries = int(options["symmetries"])
    with memory_told("lower --batch-size, or use --device cpu"), workers_told():
        failed = compute(plan, spaces, judge, symmetries, batch_size, options["workers"], engine_of(options), device)
        check_failures(plan.outdir / "failures.csv", failed)
        found = {}
        for name, measured in measure_all(plan, spaces, judge, symmetries, options["seed"], device):
            found[name] = measured
            click.echo(f"Measured {name}")
    results = results_of(plan, spaces, judge, symmetries, found, options["seed"])
    write(plan, results, options["figures"])
    record = plan.outdir / "run.json"
    record.unlink(missing_ok=True)  # what is written is what this command has made, whatever was there
    told = {name: value for name, value in options.items() if name != "dry_run"}
    begin_run(record, told, PACKAGES, told_device(device))
    click.echo("\n" + table(results))
    figures = ",measures.png,spectra.png,neighbours.png" if options["figures"] else ""
    click.echo(f"Wrote {plan.outdir}/{{fidelity.json,run.json{figures}}}")


FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command(cls=Command)
@data_option
@click.option("--reference", metavar="NAME=DIR", show_default="test=DATA/test/images", help="Real images, held out.")
@click.option(
    "--set",
    multiple=True,
    metavar="NAME=DIR",
    show_default="synth=DATA/synth/images and generated=DATA/train/generated",
    help="Images to measure; once for each set.",
)
@click.option(
    "--floor",
    metavar="NAME=DIR",
    show_default="train=DATA/train/images",
    help=f"Other real images, whose measures stand beside; {NONE!r} for none.",
)
@click.option(
    "--train-images",
    type=FOLDER,
    show_default="DATA/train/images",
    help=f"What generators were trained on, all of it, to find copies; {NONE!r} for none.",
)
@click.option(
    "--masks",
    multiple=True,
    metavar="NAME=DIR",
    help=f"Masks of a set, if not in masks/ beside its images; DIR {NONE!r} for none.",
)
@click.option("--noise", is_flag=True, help="Also measure images of noise, as a mark at the far end.")
@click.option(
    "--features",
    type=click.Choice(FEATURES),
    multiple=True,
    default=["encoder"],
    show_default=True,
    help="Network whose features are compared; once for each.",
)
@click.option("--features-weights", multiple=True, metavar="SPACE=FILE", help="Weights of inception or dinov2.")
@click.option(
    "--weights",
    type=click.Path(path_type=Path, dir_okay=False),
    show_default=f"{PUBLISHED_WEIGHTS}, else {OWN_WEIGHTS}",
    help="Trained segmenter: its encoder is a space, and it reads whether images fit their masks.",
)
@click.option(
    "--symmetries",
    type=click.Choice(["1", "8"]),
    default="1",
    show_default=True,
    help="8: features are means over turns and mirror images, at eight times the cost.",
)
@click.option("--max-images", type=click.IntRange(2), default=50_000, show_default=True, help="At most, of each set.")
@click.option("--outdir", type=FOLDER, default=Path("fidelity"), show_default=True, help="Folder for all results.")
@click.option("--figures/--no-figures", default=True, show_default=True, help="Whether to draw them.")
@click.option("--batch-size", type=click.IntRange(1), show_default="64 on a GPU, 8 on a CPU", help="Images at a time.")
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=cores(),
    show_default="one per core",
    help="Processes that read and measure images; 0 reads in this one.",
)
@engine_options
@seed_option
@device_option
@dry_run_option
def main(**options: Any) -> None:
    r"""Measure synthetic images against real ones, each number with an interval and beside its floor.

    \b
    Reads   ARAS400k/test/images (the reference), synth/images, train/generated, train/images, the masks beside
            them; a trained segmenter
    Writes  fidelity/fidelity.json: every measure of every set
            fidelity/measures.png, spectra.png, neighbours.png
            fidelity/features/: what was computed of each image, which other runs use again
            fidelity/failures.csv when an image could not be used; the exit code is then 1

    \b
    Example  python synthetic_metrics.py
             python synthetic_metrics.py --set mine=my_images --features encoder --features inception
             python synthetic_metrics.py --reference val=ARAS400k/val/images --noise --symmetries 8

    Of every set as many images are drawn as the smallest has, since most measures change with their number. Compare
    numbers of one table only. A distance is called FID only if the weights are those on which FID is defined.

    To resume, run the same command again. It may name other sets or spaces: what was computed of images is kept.
    """
    if options["dry_run"]:
        plan = plan_of(options)
        tell(plan, options)
        click.echo(f"Would measure {', '.join(plan.generated)} by {plan.number:,} images each, into {plan.outdir}")
        return
    engine_of(options)  # before any work
    outdir: Path = options["outdir"]
    with sole_writer(outdir):
        remove_parts(outdir)
        remove_parts(outdir / "features")
        run(plan_of(options), options)


if __name__ == "__main__":
    main()
