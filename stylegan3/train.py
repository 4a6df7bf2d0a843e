"""Train StyleGAN2-ADA or StyleGAN3 on a folder or zip of images.

Written from the papers: Karras et al. 2020, Training Generative Adversarial Networks with Limited Data (arXiv
2006.06676); Karras et al. 2020, Analyzing and Improving the Image Quality of StyleGAN (arXiv 1912.04958); Karras et al.
2021, Alias-Free Generative Adversarial Networks (arXiv 2106.12423). Options, run folders and file names are those of
the reference implementation of the last one.
"""

import json
from pathlib import Path
from typing import Any

import click

from stylegan_errors import Script
from stylegan_options import (
    AUGMENTATIONS,
    CONFIGS,
    Number,
    Options,
    check,
    description,
    settings_of,
    told_options,
    told_settings,
)

LARGEST_SEED = 2**63 - 1  # that torch and NumPy take


def parsed_metrics(context: click.Context, parameter: click.Parameter, text: str) -> tuple[str, ...]:
    """Return the names in `text`, split at commas; none for 'none' and ''."""
    if not text or text.lower() == "none":
        return ()
    return tuple(dict.fromkeys(name.strip() for name in text.split(",")))


def tell_plan(options: Options, dataset: Any, folder: Path, settings: Any) -> None:
    """Print what the options come to."""
    click.echo("Training options:")
    click.echo(json.dumps({"options": told_options(options)} | told_settings(settings), indent=2))
    click.echo(f"Output directory:    {folder}")
    click.echo(f"Number of GPUs:      {options.gpus}")
    click.echo(f"Batch size:          {options.batch} images")
    click.echo(f"Training duration:   {options.kimg} kimg")
    click.echo(f"Dataset path:        {options.data}")
    click.echo(f"Dataset size:        {len(dataset)} images")
    click.echo(f"Dataset resolution:  {dataset.resolution}")
    click.echo(f"Dataset labels:      {bool(dataset.label_dim)}")
    click.echo(f"Dataset symmetries:  {dataset.symmetries}")


def plan(options: Options, new_run: bool, dry_run: bool) -> None:
    """Say what the options come to, and train unless it is a `dry_run`; in another run if `new_run`.

    Raises:
        StyleganError: options, dataset or run folder do not fit.
    """
    from stylegan_distributed import choose_device, is_first_in_environment, run_in_processes, share_cores
    from stylegan_metrics import check_metric_names

    share_cores()
    from stylegan_dataset import ImageDataset
    from stylegan_runs import check_same, choose_folder

    dataset = ImageDataset(
        options.data, cond=options.cond, mirror=options.mirror, dihedral=options.dihedral, cache_bytes=0
    )
    check(options, dataset.label_dim)
    check_metric_names(list(options.metrics))
    settings = settings_of(options, dataset)
    name = description(options, dataset.name)
    folder, finished = choose_folder(options.outdir, name, options.kimg, new_run)
    tells = is_first_in_environment()
    if tells:
        tell_plan(options, dataset, folder.path, settings)
    goes_on = folder.path.exists()
    if goes_on:
        check_same(folder, options, settings)
    if finished:
        click.echo(f"Finished already, see {folder.path}; raise --kimg to train on, or start another run by --new-run")
    elif goes_on and tells:
        click.echo(f"Goes on with {folder.path}")
    if dry_run:
        click.echo("Dry run; exiting.")
    elif not finished:
        from stylegan_loop import train_rank

        choose_device(options.device, options.gpus)
        run_in_processes(train_rank, (options, settings, folder), options.gpus)


@click.command(cls=Script)
@click.option(
    "--outdir", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Where run folders are made."
)
@click.option("--cfg", type=click.Choice(CONFIGS), required=True, help="Base configuration.")
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, metavar="[ZIP|DIR]", help="The images to learn from."
)
@click.option(
    "--gpus", type=click.IntRange(min=1), required=True, metavar="INT", help="How many GPUs, one process each."
)
@click.option(
    "--batch", type=click.IntRange(min=1), required=True, metavar="INT", help="Images of an iteration, in all."
)
@click.option("--gamma", type=Number(min=0), required=True, metavar="FLOAT", help="Weight of R1.")
@click.option(
    "--cond", type=bool, default=False, show_default=True, metavar="BOOL", help="Use the labels of dataset.json."
)
@click.option("--mirror", type=bool, default=False, show_default=True, metavar="BOOL", help="Mirror images too.")
@click.option(
    "--dihedral",
    type=bool,
    default=False,
    show_default=True,
    metavar="BOOL",
    help="Images in all eight symmetries of the square too: from above, no side is up.",
)
@click.option("--aug", type=click.Choice(AUGMENTATIONS), default="ada", show_default=True, help="Augmentation mode.")
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Transfer learning: start from the networks of this snapshot, or official pickle. (A run goes on by itself.)",
)
@click.option(
    "--freezed", type=click.IntRange(min=0), default=0, show_default=True, metavar="INT", help="Layers of D to freeze."
)
@click.option("--p", type=Number(0, 1), default=0.2, show_default=True, metavar="FLOAT", help="Of --aug=fixed.")
@click.option("--target", type=Number(0, 1), default=0.6, show_default=True, metavar="FLOAT", help="Of --aug=ada.")
@click.option(
    "--batch-gpu",
    type=click.IntRange(min=1),
    metavar="INT",
    help="Images that a GPU computes on at once.  [default: what fits its memory]",
)
@click.option(
    "--cbase", type=click.IntRange(min=1), default=32768, show_default=True, metavar="INT", help="Capacity multiplier."
)
@click.option(
    "--cmax", type=click.IntRange(min=1), default=512, show_default=True, metavar="INT", help="Most feature maps."
)
@click.option(
    "--glr", type=Number(min=0), metavar="FLOAT", help="Learning rate of G.  [default: 0.002; StyleGAN3: 0.0025]"
)
@click.option(
    "--dlr", type=Number(min=0), default=0.002, show_default=True, metavar="FLOAT", help="Learning rate of D."
)
@click.option(
    "--map-depth", type=click.IntRange(min=1), metavar="INT", help="Layers of the mapping.  [default: 8; StyleGAN3: 2]"
)
@click.option(
    "--mbstd-group",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    metavar="INT",
    help="Images of a group of minibatch standard deviation.",
)
@click.option("--desc", metavar="STR", help="Appended to the run folder's name.")
@click.option(
    "--metrics",
    callback=parsed_metrics,
    default="fid50k_full",
    show_default=True,
    metavar="[NAME|A,B,C|none]",
    help="Measured at each snapshot.",
)
@click.option(
    "--kimg",
    type=click.IntRange(min=1),
    default=25000,
    show_default=True,
    metavar="KIMG",
    help="Thousands of real images.",
)
@click.option(
    "--tick", type=click.IntRange(min=1), default=4, show_default=True, metavar="KIMG", help="How often to tell of it."
)
@click.option(
    "--snap",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    metavar="TICKS",
    help="How often to save networks.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, LARGEST_SEED),
    default=0,
    show_default=True,
    metavar="INT",
    help="Everything random follows from it.",
)
@click.option("--fp32", type=bool, default=False, show_default=True, metavar="BOOL", help="No half precision.")
@click.option(
    "--bf16", type=bool, default=False, show_default=True, metavar="BOOL", help="bfloat16 where float16 would be."
)
@click.option(
    "--tf32", type=bool, default=False, show_default=True, metavar="BOOL", help="TF32 where float32 would be."
)
@click.option(
    "--nobench", type=bool, default=False, show_default=True, metavar="BOOL", help="No search for quick kernels."
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    metavar="INT",
    help="Processes that read images; 0 for none.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be done, and do none of it.")
@click.option("--new-run", is_flag=True, help="Start another run, even if one of this name is unfinished.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cuda", "cpu"]),
    default="auto",
    show_default=True,
    help="Where to compute; auto takes the GPU when there is one.",
)
@click.option(
    "--compile/--no-compile", default=False, help="torch.compile: minutes to start with.  [default: no-compile]"
)
@click.option(
    "--checkpoint-minutes",
    type=Number(0),
    default=15.0,
    show_default=True,
    metavar="FLOAT",
    help="Save what a run goes on from this often, besides at each snapshot.",
)
@click.option(
    "--cache-gb", type=Number(0), metavar="FLOAT", help="Memory for decoded images.  [default: half of what is free]"
)
@click.option("--wandb", metavar="PROJECT", help="Also log to this Weights & Biases project.")
@click.option(
    "--fd-encoder",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The segmenter's best.pt whose encoder the metric fd_encoder compares features of.",
)
@click.option(
    "--inception", type=click.Path(path_type=Path), metavar="FILE", help="Weights of Inception, for FID and its kin."
)
def main(new_run: bool, dry_run: bool, **told: Any) -> None:
    r"""Train StyleGAN2-ADA or StyleGAN3.

    Reads --data: a folder, with all below it, or a zip of square images of one size, a power of two.

    \b
    Writes <outdir>/00000-<cfg>-<data>-gpus<N>-batch<N>-gamma<G>/
        training_options.json                what it was told
        log.txt, stats.jsonl, events.*       how it goes: text, a line for each tick, TensorBoard
        reals.png, fakes<kimg>.png           grids of images
        network-snapshot-<kimg>.safetensors  networks, for gen_images.py and the like
        metric-<name>.jsonl                  a line for each snapshot
        training-state.pt                    what the run goes on from

    \b
    Example:
        python stylegan3/train.py --outdir=out --cfg=stylegan2 --data=ARAS400k/train/images --gpus=1 --batch=32
            --gamma=0.4 --mirror=1 --cbase=16384 --snap=20

    Without a GPU it trains on the CPU, which is slow. torchrun starts it on many nodes, with --gpus the number of all
    processes and --outdir where each node sees it.

    To resume, run the same command again. It goes on with the newest unfinished run of that name.
    """
    plan(Options(**told), new_run, dry_run)


if __name__ == "__main__":
    main()
