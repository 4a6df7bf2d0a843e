"""Draw images with a trained generator: a few by seed, or a whole synthetic set (ARAS400k/synth/images).

Image i of a set is that of seed i, whatever was drawn before and by how many GPUs, so a killed run and its continuation
give what an unbroken one gives. PNGs are compressed by threads while the next batch is computed: compression lets go of
the interpreter, so they need no processes and no copies. Karras et al. 2020, arXiv 2006.06676, and 2021, 2106.12423.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from stylegan_distributed import (
    choose_device,
    from_first,
    is_first,
    place_in_environment,
    rank,
    run_in_processes,
    world_size,
)
from stylegan_errors import Script, StyleganError
from stylegan_files import digest_of, named, read_json, remove_parts, sole_writer, write_json
from stylegan_seeds import (
    LARGEST_SEED,
    Finite,
    Offset,
    Seeds,
    class_option,
    device_option,
    network_option,
    truncation_option,
)

KEPT = ("network_sha256", "trunc", "class", "noise_mode", "translate", "rotate")
"""Options that all images of a set have in common."""
SEED_NAME, SET_NAME = "seed{:04d}.png", "{:06d}.png"


def load_generator(options: dict[str, Any], device: Any) -> tuple[Any, Any]:
    """Return the generator on `device`, with its input transformed as the options say, and the label of the class."""
    from stylegan_generate import label_of, transform_input
    from stylegan_official import load_networks

    G = load_networks(options["network"]).G_ema
    label = label_of(G, options["class"])
    transform_input(G, options["translate"], options["rotate"])
    assert G is not None
    return G.to(device), label


def batches_of(first: int, count: int, batch: int, present: set[str]) -> list[list[int]]:
    """Return the seeds `first` to `first + count - 1` in batches that begin at multiples of `batch`, this process's.

    A batch of which something is missing is drawn whole, so that no image depends on what was there.
    """
    starts = range(first // batch * batch, first + count, batch)[rank() :: world_size()]
    wanted = range(first, first + count)
    batches = (list(range(start, min(start + batch, LARGEST_SEED + 1))) for start in starts)
    return [seeds for seeds in batches if any(s in wanted and SET_NAME.format(s) not in present for s in seeds)]


def begin_set(options: dict[str, Any]) -> None:
    """Check that the images in --outdir are of the same network and options, and write down which these are.

    Raises:
        StyleganError: they are not, or nothing tells.
    """
    outdir: Path = options["outdir"]
    record = record_of(outdir)
    now = {name: list(v) if isinstance(v := options[name], tuple) else v for name in KEPT}
    if record.exists():
        found = read_json(record)
        before = found.get("options", {}) if isinstance(found, dict) else {}
        changed = [name for name, value in now.items() if before.get(name) != value]
        if changed:
            told = "; ".join(f"{name} was {before.get(name)}, now {now[name]}" for name in changed)
            raise StyleganError(f"{outdir} holds images made otherwise ({told}); name another --outdir, or delete both")
    elif any(outdir.glob("*.png")):
        raise StyleganError(f"{outdir} has images that no {record.name} tells of; keep them, and name another --outdir")
    remove_parts(outdir)
    write_json(record, told_run(options, now))


def record_of(outdir: Path) -> Path:
    """Return the file beside the folder of a set that tells how its images were made."""
    return outdir.with_name(f"{outdir.name}.run.json")


def told_run(options: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    """Return what the record of a set tells."""
    from importlib.metadata import version

    here = {"network": str(options["network"]), "first": options["first"], "count": options["count"]}
    versions = {name: version(name) for name in ("torch", "numpy", "pillow")}
    return {"options": here | kept, "command": sys.argv, "versions": versions}


def draw_set(options: dict[str, Any]) -> None:
    """Draw a set, or this process's share of it."""
    from contextlib import nullcontext

    device, outdir = choose_device(options["device"], world_size()), options["outdir"]
    with sole_writer(outdir) if is_first() else nullcontext():
        from_first(lambda: begin_set(options))
        first, count = options["first"], options["count"]
        present = {path.name for path in outdir.iterdir()}
        if is_first():
            done = sum(SET_NAME.format(seed) in present for seed in range(first, first + count))
            click.echo(f"{outdir}: {count:,} images, {done:,} are there, {count - done:,} to draw on {device}")
        batches = batches_of(first, count, options["batch"], present)

        def missing(seed: int) -> Path | None:
            name = SET_NAME.format(seed)
            return outdir / name if first <= seed < first + count and name not in present else None

        if batches:
            draw_batches(options, batches, missing, device)


def draw_batches(
    options: dict[str, Any], batches: list[list[int]], target: Callable[[int], Path | None], device: Any
) -> None:
    """Draw `batches` of seeds; write the image of each seed that has a `target`."""
    from tqdm import tqdm

    from stylegan_generate import exact_float32
    from stylegan_writing import PngWriter, drawn_batches

    G, label = load_generator(options, device)
    size = max(map(len, batches))
    drawing = {"batch": size, "truncation": options["trunc"], "noise_mode": options["noise_mode"]}
    who = f"process {rank() + 1} of {world_size()}" if world_size() > 1 else None
    count = sum(target(seed) is not None for seeds in batches for seed in seeds)
    bar = tqdm(total=count, desc=who, unit=" images", disable=not is_first())
    with bar, exact_float32(), PngWriter() as writer:
        for seeds, images in drawn_batches(G, batches, label, device, drawing):
            for seed, image in zip(seeds, images, strict=True):
                if path := target(seed):
                    writer.write(path, image)
                    bar.update()


def draw_seeds(options: dict[str, Any]) -> None:
    """Draw the images of --seeds, over any of the same name that are there.

    Raises:
        StyleganError: the folder holds a set.
    """
    if record_of(options["outdir"]).exists():
        raise StyleganError(f"{options['outdir']} holds a set of --count; name another --outdir for --seeds")
    seeds, batch = list(dict.fromkeys(options["seeds"])), options["batch"]  # two threads must not write one file
    batches = [seeds[start : start + batch] for start in range(0, len(seeds), batch)]
    device = choose_device(options["device"])
    draw_batches(options, batches, lambda seed: options["outdir"] / SEED_NAME.format(seed), device)


def check_options(options: dict[str, Any]) -> None:
    """Raise a usage error for options that do not go together."""
    if (options["seeds"] is None) == (options["count"] is None):
        raise click.UsageError("Give --seeds for images by seed, or --count for a whole set.")
    if options["seeds"] is not None and (options["gpus"] > 1 or place_in_environment().world_size > 1):
        raise click.UsageError("--gpus and torchrun are for --count.")
    if options["count"] is not None and options["first"] + options["count"] > LARGEST_SEED + 1:
        raise click.UsageError(f"--first and --count go beyond the largest seed, {LARGEST_SEED}.")


@click.command(cls=Script)
@network_option
@click.option("--seeds", type=Seeds(), help="Seeds, such as 0,1,4-6; writes seed0000.png, ...")
@click.option(
    "--count", type=click.IntRange(1), metavar="N", help="Draw a whole set of N images; writes 000000.png, ..."
)
@click.option(
    "--first",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="SEED",
    help="Seed of the set's first image.",
)
@truncation_option
@class_option
@click.option(
    "--noise-mode",
    type=click.Choice(["const", "random", "none"]),
    default="const",
    show_default=True,
    help="Noise of StyleGAN2: the same in all images, each image's own (from its seed), or none.",
)
@click.option(
    "--translate",
    type=Offset(),
    default="0,0",
    show_default=True,
    help="Move images of StyleGAN3 by x,y, in image sides.",
)
@click.option(
    "--rotate",
    type=Finite(),
    default=0.0,
    show_default=True,
    metavar="DEGREES",
    help="Turn images of StyleGAN3, counter-clockwise.",
)
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, metavar="N", help="Images at a time.")
@click.option(
    "--gpus",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="GPUs of this machine, for --count.",
)
@device_option
@click.option(
    "--outdir",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="FOLDER",
    help="Folder to write to.",
)
def main(**options: Any) -> None:
    r"""Draw images with a trained generator.

    \b
    Reads   a network snapshot of train.py, or an official pickle, of which nothing is run
    Writes  with --seeds: OUTDIR/seed0000.png, ..., over what is there
            with --count: OUTDIR/000000.png, ..., named by seed, and OUTDIR.run.json, which tells how they were made

    \b
    Example  python stylegan3/gen_images.py --network network-snapshot-005000.safetensors --seeds 0-7 --outdir out
             python stylegan3/gen_images.py --network network-snapshot-005000.safetensors --count 300000 --batch 64 \
                 --outdir ARAS400k/synth/images

    --count takes many GPUs by --gpus, or by torchrun on many machines that share OUTDIR. A folder holds images of one
    network and of one set of options; --first and a larger --count add to it.

    The image of a seed does not depend on what else is drawn. On a CPU this holds to the last bit; on a GPU, another
    --batch rounds sums differently, which can move pixels by a grey level or so.

    To resume, run the same command again. With --count, images that are there are not drawn again.
    """
    check_options(options)
    options["outdir"] = named(options["outdir"])
    if options["seeds"] is not None:
        draw_seeds(options)
        return
    from stylegan_snapshot import check_is_file

    check_is_file(options["network"])
    options["network_sha256"] = digest_of(options["network"])
    started = place_in_environment().world_size
    run_in_processes(draw_set, (options,), started if started > 1 else options["gpus"])


if __name__ == "__main__":
    main()
