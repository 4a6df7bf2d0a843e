"""What a training is told, and what follows from it."""

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import click

from stylegan_errors import StyleganError

CONFIGS = ("stylegan3-t", "stylegan3-r", "stylegan2")
AUGMENTATIONS = ("noaug", "ada", "fixed")
LATENT = 512  # dimensions of z and of w
AUGMENT_KIND = "bgc"
ADA_KIMG, ADA_KIMG_RESUMED = 500, 100  # in which p can go from 0 to 1; in transfer learning
EMA_RAMPUP = 0.05
HALF_RESOLUTIONS, CLAMP = 4, 256  # highest resolutions in half precision, and what keeps them from overflowing
G_INTERVAL, D_INTERVAL = 4, 16  # iterations from one regularisation to the next
STYLE_MIXING, PL_WEIGHT = 0.9, 2.0
BLUR_SIGMA = 10.0  # px, of configuration R
MAGNITUDE_HALF_LIFE = 20_000  # images

FREE = frozenset(
    {
        *("kimg", "snap", "metrics", "workers", "nobench", "batch_gpu", "device", "compile", "checkpoint_minutes"),
        *("cache_gb", "wandb", "fd_encoder", "inception", "outdir", "data"),
    }
)
"""Options that may change when a run goes on: how long, how fast and how watched it is, not what is trained.

Where the dataset is may change too; `dataset_changes` tells whether it is still the same one.
"""


class Number(click.FloatRange):
    """A finite number within a range; click's own lets nan through every range, and inf through one without an end."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return `value` as a float; fail if it is none, not finite or out of the range."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


@dataclass(frozen=True)
class Options:
    """The command line, each option under its name; None is 'as --cfg has it' or 'chosen later'."""

    outdir: Path
    cfg: str
    data: Path
    gpus: int
    batch: int
    gamma: float
    cond: bool
    mirror: bool
    dihedral: bool
    aug: str
    resume: Path | None
    freezed: int
    p: float
    target: float
    batch_gpu: int | None
    cbase: int
    cmax: int
    glr: float | None
    dlr: float
    map_depth: int | None
    mbstd_group: int
    desc: str | None
    metrics: tuple[str, ...]
    kimg: int
    tick: int
    snap: int
    seed: int
    fp32: bool
    bf16: bool
    tf32: bool
    nobench: bool
    workers: int
    device: str
    compile: bool
    checkpoint_minutes: float
    cache_gb: float | None
    wandb: str | None
    fd_encoder: Path | None
    inception: Path | None


@dataclass(frozen=True)
class Settings:
    """What follows from the command line and the dataset: all that a training depends on.

    Attributes:
        seed: everything random follows from it.
        batch: images of an iteration, over all processes.
        G_config: what the generator is built from.
        D_config: what the discriminator is built from.
        G_optimizer: lr, betas, eps of Adam before the correction for lazy regularisation, and its interval.
        D_optimizer: likewise.
        loss: r1_gamma, style_mixing_prob, pl_weight, blur_init_sigma (px), blur_fade_kimg.
        augment: mode (noaug, ada, fixed), kind, p at the beginning, target, kimg in which p can go from 0 to 1.
        ema: kimg of its half-life, rampup.
        dataset: path, name, resolution, channels, label_dim, images (with mirrored ones), cond, mirror, dihedral.
    """

    seed: int
    batch: int
    G_config: dict[str, Any]
    D_config: dict[str, Any]
    G_optimizer: dict[str, Any]
    D_optimizer: dict[str, Any]
    loss: dict[str, Any]
    augment: dict[str, Any]
    ema: dict[str, Any]
    dataset: dict[str, Any]


def check(options: Options, label_dim: int) -> None:
    """Return if the options go together, and with a dataset of `label_dim` labels.

    Raises:
        StyleganError: they do not.
    """
    if options.cond and not label_dim:
        raise StyleganError("--cond=True requires labels specified in dataset.json")
    if options.batch % options.gpus:
        raise StyleganError("--batch must be a multiple of --gpus")
    if options.batch_gpu and options.batch % (options.gpus * options.batch_gpu):
        raise StyleganError("--batch must be a multiple of --gpus times --batch-gpu")
    at_once = options.batch_gpu or options.batch // options.gpus
    if at_once < options.mbstd_group:
        raise StyleganError("--batch-gpu cannot be smaller than --mbstd")
    if at_once % options.mbstd_group:
        what = "--batch-gpu" if options.batch_gpu else "--batch divided by --gpus"
        raise StyleganError(f"{what} must be a multiple of --mbstd-group, so that its groups are whole")
    if "fd_encoder" in options.metrics and options.fd_encoder is None:
        raise StyleganError("--metrics fd_encoder needs the segmenter whose encoder it is: --fd-encoder best.pt")
    if options.fp32 and options.bf16:
        raise StyleganError("--fp32 computes in no half precision at all; leave --bf16 out")


def settings_of(options: Options, dataset: Any) -> Settings:
    """Return what `options` mean for `dataset`.

    Raises:
        StyleganError: its images have a size that the networks cannot have.
    """
    from stylegan_networks import check_resolution

    try:
        check_resolution(options.cfg, dataset.resolution)
    except ValueError as error:
        raise StyleganError(f"--data={options.data}: {error}; resize the images by dataset_tool.py") from None
    is_2 = options.cfg == "stylegan2"
    widths = {
        "resolution": dataset.resolution,
        "channels": dataset.channels,
        "channel_base": options.cbase,
        "channel_max": options.cmax,
        "num_fp16_res": 0 if options.fp32 else HALF_RESOLUTIONS,
        "conv_clamp": None if options.fp32 else CLAMP,
    }
    c_dim = dataset.label_dim
    depth = options.map_depth or (8 if is_2 else 2)
    G_config = {"kind": options.cfg, "z_dim": LATENT, "c_dim": c_dim, "w_dim": LATENT, "map_depth": depth} | widths
    if not is_2:
        G_config["magnitude_ema_beta"] = 0.5 ** (options.batch / MAGNITUDE_HALF_LIFE)
    D_config = {"kind": "stylegan2-discriminator", "c_dim": c_dim} | widths
    D_config |= {"mbstd_group": options.mbstd_group, "freeze_layers": options.freezed}
    glr = options.glr if options.glr is not None else (0.002 if is_2 else 0.0025)
    adam = {"betas": [0.0, 0.99], "eps": 1e-8}
    blurs = options.cfg == "stylegan3-r"
    return Settings(
        seed=options.seed,
        batch=options.batch,
        G_config=G_config,
        D_config=D_config,
        G_optimizer={"lr": glr, **adam, "interval": G_INTERVAL if is_2 else None},
        D_optimizer={"lr": options.dlr, **adam, "interval": D_INTERVAL},
        loss={
            "r1_gamma": options.gamma,
            "style_mixing_prob": STYLE_MIXING if is_2 else 0.0,
            "pl_weight": PL_WEIGHT if is_2 else 0.0,
            "blur_init_sigma": BLUR_SIGMA if blurs and options.resume is None else 0.0,
            "blur_fade_kimg": options.batch * 200 / 32 if blurs else 0.0,
        },
        augment={
            "mode": options.aug,
            "kind": AUGMENT_KIND,
            "p": options.p if options.aug == "fixed" else 0.0,
            "target": options.target,
            "kimg": ADA_KIMG if options.resume is None else ADA_KIMG_RESUMED,
        },
        ema={"kimg": options.batch * 10 / 32, "rampup": EMA_RAMPUP if options.resume is None else None},
        dataset=dataset_told(options, dataset),
    )


def dataset_told(options: Options, dataset: Any) -> dict[str, Any]:
    """Return what snapshots tell of `dataset`."""
    told = {"path": str(options.data.absolute()), "name": dataset.name, "resolution": dataset.resolution}
    told |= {"channels": dataset.channels, "label_dim": dataset.label_dim, "images": len(dataset)}
    return told | {"cond": options.cond, "mirror": options.mirror, "dihedral": options.dihedral}


def description(options: Options, dataset_name: str) -> str:
    """Return what a run folder is called after its number."""
    name = f"{options.cfg}-{dataset_name}-gpus{options.gpus}-batch{options.batch}-gamma{options.gamma:g}"
    return f"{name}-{options.desc}" if options.desc else name


def told_options(options: Options) -> dict[str, Any]:
    """Return the options as JSON has them: paths absolute, tuples as lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            return str(value.absolute())
        return list(value) if isinstance(value, tuple) else value

    return {field.name: plain(getattr(options, field.name)) for field in fields(options)}


def told_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings as JSON has them."""
    return asdict(settings)


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return, in words, what of the options `now` is not as `before` and may not change when a run goes on."""

    def said(value: Any) -> Any:
        return "not given" if value is None else value

    return [
        f"--{name.replace('_', '-')} was {said(before.get(name))}, now {said(value)}"
        for name, value in now.items()
        if name not in FREE and before.get(name) != value
    ]


def dataset_changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return, in words, in what the dataset `now` is not that of `before`, wherever it is."""
    return [
        f"the dataset's {name} was {before.get(name)}, now {value}"
        for name, value in now.items()
        if name != "path" and before.get(name) != value
    ]
