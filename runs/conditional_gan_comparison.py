"""Two recipes for the conditional GAN on the sample region: the same time, the same masks, three seeds, all published.

What is compared, for how long and by what is fixed below, before anything is run. Both arms of a seed train at the same
time, each on one thread, so whatever else the machine does hits both alike. Each run keeps the weights of its snapshot
with the lowest Fréchet distance on the validation masks; what is told is measured on the masks of the test split, which
neither the generators nor the judge have seen.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from aras.command import Command, Number, data_option
from aras.errors import UserError
from aras.figures import BLUE, VERMILION, save_figure
from aras.files import read_json, sole_writer, write_json, write_text
from aras.legend import COLORS
from aras.pairs import Pairs, find_pairs, read_pair
from aras.runs import begin_run
from aras.segmentation.repeats import seeds_of
from aras.training import read_lines, share_cores

if TYPE_CHECKING:
    import torch

    from aras.spade.quality import Draw, Quality

# ------------------------------------------------------------------------------------------------------------ the plan

MINUTES = 5.0
"""Wall clock of training steps that each run has."""

SEEDS = "0,1,2"
SAMPLES = 8
"""Images of each test mask."""

SHARED: dict[str, Any] = {"width": 16, "snapshot_kimg": 1}
"""Options of both arms. A width of 64 and the published batch of 50 would leave few steps in this time."""

ARMS: dict[str, dict[str, Any]] = {
    "unet-spade": SHARED
    | {"recipe": "unet-spade", "batch_size": 4, "lr_generator": 1e-3, "lr_discriminator": 5e-4}
    | {"ema_kimg": 1, "label_mix": 1},
    "published": SHARED | {"recipe": "published", "batch_size": 8},
}
"""The options of each arm: those found in shorter tries on training and validation masks, and the published rates."""

MEASURES = {
    "frechet": ("Fréchet distance", "{:.0f}", -1),
    "frechet_one_each": ("of one image each", "{:.0f}", -1),
    "agreement_miou": ("agreement, IoU", "{:.3f}", 1),
    "agreement_accuracy": ("agreement, accuracy", "{:.3f}", 1),
    "diversity_levels": ("diversity, grey levels", "{:.1f}", 1),
    "diversity_features": ("diversity, features", "{:.2f}", 1),
    "repetition": ("repetition in flat areas", "{:.3f}", 0),
}
"""By name: its heading, how it is told, and whether more (1) or less (-1) is better; 0 is near that of real images."""

SHOWN = 8  # masks in the figure of samples, chosen by themselves alone

# ------------------------------------------------------------------------------------------------------------- running


@dataclass(frozen=True)
class Run:
    """The training of `arm` with `seed` in `folder`."""

    arm: str
    seed: int
    folder: Path

    @property
    def result(self) -> Path:
        """What it came to on the test masks."""
        return self.folder / "test_quality.json"


def command_of(run: Run, data: Path, judge: Path, minutes: float, vgg: str) -> list[str]:
    """Return the command line of `run`."""
    arm = ARMS[run.arm] | ({"vgg": vgg} if ARMS[run.arm]["recipe"] == "published" else {})
    shared = {"data": data, "judge": judge, "minutes": minutes, "seed": run.seed, "outdir": run.folder}
    options = arm | shared | {"epochs": 1_000_000, "workers": 0, "device": "cpu", "quality_split": "val"}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return [sys.executable, str(ROOT / "generative_trainer_unet_spade_gan.py"), *words, "--no-draw"]


def train_together(commands: dict[str, list[str]], logs: Path) -> None:
    """Run `commands` at the same time, one thread each, and wait; what they say is added to a file of their name.

    Raises:
        UserError: one failed; the others are ended.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        running = {}
        for name, words in commands.items():
            log = stack.enter_context((logs / f"{name}.log").open("a"))
            process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=environment)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            running[name] = process
        for name, process in running.items():
            if process.wait():
                raise UserError(f"training {name} failed, see {logs / f'{name}.log'}; run the same command again")


def measure(run: Run, quality: "Quality") -> dict[str, Any]:
    """Return, and keep, what the best weights of `run` are worth on the masks of `quality`."""
    from aras.spade.run_folder import load_generator
    from aras.spade.snapshots import draw_samples

    trained = read_json(run.folder / "result.json")
    key = {"steps": trained["steps"], "marks": quality.reference.marks}
    if run.result.is_file() and read_json(run.result).items() >= key.items():
        return read_json(run.result)
    generator = load_generator(run.folder / "best.pt", None, None)
    draw = partial(draw_samples, generator, run.seed, quality.space.device)
    found = quality.measure(draw) | {"repetition": mean_repetition(quality.held_out, draw)}
    told = {f"trained_{name}": trained[name] for name in ("images", "seconds")} | {"best_step": trained["best_step"]}
    write_json(run.result, {"arm": run.arm, "seed": run.seed} | told | key | found)
    return read_json(run.result)


def mean_repetition(pairs: Pairs, draw: "Draw | None") -> float | None:
    """Return how much flat areas repeat themselves in the first sample of each mask, or without `draw` in real images.

    None if the masks have no flat area.
    """
    import torch

    from aras.spade.repetition import repetition

    found: list[float] = []
    for image, labels, name in images_of(pairs):
        shown = image
        if draw is not None:
            shown = draw(torch.from_numpy(labels)[None], [(name, 0)])[0].permute(1, 2, 0).cpu().numpy()
        found += repetition(shown, labels)
    return float(np.mean(found)) if found else None


def images_of(pairs: Pairs) -> Iterator[tuple[np.ndarray, np.ndarray, str]]:
    """Yield image (H, W, 3), labels (H, W) and name of each of `pairs`."""
    from aras.pairs import image_size

    size = image_size(pairs.image(0))
    for index, name in enumerate(pairs.names.tolist()):
        yield *read_pair(pairs.image(index), pairs.mask(index), size), name


def open_test(data: Path, judge: Path, folder: Path, device: "torch.device") -> "Quality":
    """Return what measures images of the test masks.

    Raises:
        UserError: the judge has seen them.
    """
    from aras.feature_spaces import encoder_space
    from aras.spade.judge import judges_apart, load_judge
    from aras.spade.quality import Quality

    test, train = find_pairs(data, "test"), find_pairs(data, "train")
    doubt = judges_apart(judge, test)
    if doubt:
        click.echo(f"WARNING: {doubt}")
    judged = load_judge(judge, device)
    space = encoder_space(judged.model, judged.digest, device)
    return Quality(test, train, space, judged, folder, SAMPLES)


# ------------------------------------------------------------------------------------------------------------- telling


def summary_of(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mean and deviation of each measure by arm, and in how many seeds the first arm is the better one."""
    arms = list(dict.fromkeys(found["arm"] for found in results))
    values = {arm: {name: [r[name] for r in results if r["arm"] == arm] for name in MEASURES} for arm in arms}
    spread = {arm: {name: spread_of(found[name]) for name in MEASURES} for arm, found in values.items()}
    first = values[arms[0]]
    pairs = {arm: {n: list(zip(first[n], found[n], strict=True)) for n in MEASURES} for arm, found in values.items()}
    better = {
        f"{arms[0]} against {arm}": {
            name: sum(sign * one > sign * other for one, other in pairs[arm][name])
            for name, (_, _, sign) in MEASURES.items()
            if sign
        }
        for arm in arms[1:]
    }
    return {"arms": spread, "seeds": sorted({found["seed"] for found in results}), "better_in_seeds": better}


def spread_of(values: list[float | None]) -> dict[str, float] | None:
    """Return mean and standard deviation of `values`; None when one is missing."""
    there = [value for value in values if value is not None]
    if len(there) < len(values):
        return None
    return {"mean": float(np.mean(there)), "std": float(np.std(there, ddof=1)) if len(there) > 1 else 0.0}


def table(results: list[dict[str, Any]], marks: dict[str, Any]) -> str:
    """Return the Markdown table of every run, of each arm's mean and deviation, and of real images."""
    heads = ["arm", "seed", "images trained on", *(head for head, _, _ in MEASURES.values())]
    lines = ["| " + " | ".join(heads) + " |", "|---|---|" + "---:|" * (len(heads) - 2)]

    def cell(name: str, value: float | None) -> str:
        return "" if value is None else MEASURES[name][1].format(value)

    for found in results:
        cells = [
            found["arm"],
            str(found["seed"]),
            f"{found['trained_images']:,}",
            *(cell(n, found[n]) for n in MEASURES),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    for arm, spread in summary_of(results)["arms"].items():
        told = [f"{cell(n, s['mean'])} ± {cell(n, s['std'])}" if s else "" for n, s in spread.items()]
        lines.append("| " + " | ".join([f"**{arm}**", "mean", "", *told]) + " |")
    real = {"frechet": "frechet_floor", "agreement_miou": "ceiling_miou", "agreement_accuracy": "ceiling_accuracy"}
    told = [cell(name, marks.get(real.get(name, name))) for name in MEASURES]
    lines.append("| " + " | ".join(["real images", "", "", *told]) + " |")
    return "\n".join(lines) + "\n"


def draw_courses(path: Path, runs: list[Run]) -> None:
    """Write the figure of all runs' quality on the validation masks over the minutes of training."""
    from matplotlib.figure import Figure

    marks = read_json(runs[0].folder / "quality.json")
    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    panels = figure.subplots(1, 3)
    colors = dict(zip(ARMS, (BLUE, VERMILION), strict=False))
    names = {
        "frechet": marks["distance"],
        "agreement_miou": "agreement, mean IoU",
        "diversity_levels": "two samples of a mask, grey levels apart",
    }
    for axes, (name, title) in zip(panels, names.items(), strict=True):
        for run in runs:
            lines = read_lines(run.folder / "metrics.jsonl")
            label = run.arm if run.seed == runs[0].seed else "_"
            minutes = [line["seconds"] / 60 for line in lines]
            axes.plot(
                minutes,
                [line[name] for line in lines],
                color=colors[run.arm],
                alpha=0.8,
                lw=1.2,
                marker=".",
                label=label,
            )
        mark = marks.get({"frechet": "frechet_floor", "agreement_miou": "ceiling_miou"}.get(name, ""))
        if mark is not None:
            axes.axhline(mark, color="black", lw=0.8, ls="--", label="real images")
        axes.set_title(title, fontsize=10)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("minutes of training on one core")
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    save_figure(path, figure, crop=False)


def draw_samples_figure(path: Path, runs: list[Run], quality: "Quality", region: Path) -> None:
    """Write the figure of test masks, real images, three samples of the first arm and one of each other."""
    import torch

    from aras.spade.grids import draw_rows, shown_pairs
    from aras.spade.run_folder import load_generator
    from aras.spade.snapshots import draw_samples

    pairs = quality.held_out
    chosen = shown_pairs(pairs, SHOWN)
    names = [str(pairs.names[index]) for index in chosen]
    found = [read_pair(pairs.image(index), pairs.mask(index), quality.size) for index in chosen]
    labels = torch.from_numpy(np.stack([labels for _, labels in found]))
    rows = {"mask": [COLORS[labels] for _, labels in found], "real": [image for image, _ in found]}
    for run in runs:
        generator = load_generator(run.folder / "best.pt", None, None)
        for sample in range(3 if run is runs[0] else 1):
            images = draw_samples(generator, run.seed, quality.space.device, labels, [(name, sample) for name in names])
            row = f"{run.arm}\nsample {sample + 1}" if run is runs[0] else f"{run.arm}\n(its only one)"
            rows[row] = list(images.permute(0, 2, 3, 1).cpu().numpy())
    told = read_json(region) if region.is_file() else {}
    minutes = read_json(runs[0].folder / "result.json")["seconds"] / 60
    title = "Masks of the test split, and images drawn of them"
    words = f"{minutes:.2g} minutes of training on one core; patches chosen by their masks alone"
    draw_rows(path, rows, names, (title, words, told.get("attribution", "")))


@click.command(cls=Command)
@data_option
@click.option(
    "--judge",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("demo/segmentation/best.pt"),
    show_default=True,
    help="Trained segmenter: its encoder gives the features, its labels the agreement.",
)
@click.option("--minutes", type=Number(0, min_open=True), default=MINUTES, show_default=True, help="Of each training.")
@click.option("--seeds", default=SEEDS, show_default=True, help="Of the trainings, parted by commas.")
@click.option(
    "--vgg", default="none", show_default=True, metavar="none|FILE", help="VGG19's weights for the published arm."
)
@click.option(
    "--region",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("demo/region.json"),
    show_default=True,
    help="What runs/sample_region.py made; has the attribution.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo/conditional_gan"),
    show_default=True,
    help="Folder for the trainings, the table and the figures.",
)
def main(data: Path, judge: Path, minutes: float, seeds: str, vgg: str, region: Path, output: Path) -> None:
    r"""Train both recipes for the same time with several seeds, and compare them on the test masks.

    \b
    Reads   DATA/{train,val,test}/{images,masks} and --judge
    Writes  OUTPUT/table.md, comparison.json, curves.png, samples.png, and a folder for each training

    Example: python runs/conditional_gan_comparison.py --data demo/ARAS400k

    To resume, run the same command again.
    """
    share_cores()
    import torch

    wanted = seeds_of(seeds)
    runs = {seed: [Run(arm, seed, output / f"{arm}_seed_{seed}") for arm in ARMS] for seed in wanted}
    plan = {"minutes": minutes, "seeds": list(wanted), "samples": SAMPLES, "vgg": vgg, "arms": ARMS}
    with sole_writer(output):
        begin_run(output / "run.json", {"data": data, "judge": judge, **plan}, ("torch", "numpy"))
        quality = open_test(data, judge, output, torch.device("cpu"))
        for seed, together in runs.items():
            click.echo(f"Seed {seed}: {' and '.join(run.arm for run in together)}, {minutes:g} minutes each")
            commands = {run.folder.name: command_of(run, data, judge, minutes, vgg) for run in together}
            train_together(commands, output)
        every = [run for together in runs.values() for run in together]
        every.sort(key=lambda run: list(ARMS).index(run.arm))
        results = [measure(run, quality) for run in every]
        marks = quality.reference.marks | {"repetition": mean_repetition(quality.held_out, None)}
        write_json(
            output / "comparison.json",
            {"plan": plan, "real": marks, "summary": summary_of(results), "results": results},
        )
        told = table(results, marks)
        write_text(output / "table.md", told)
        draw_courses(output / "curves.png", every)
        draw_samples_figure(output / "samples.png", runs[wanted[0]], quality, region)
    click.echo(told)
    click.echo(f"Writes {output}/{{table.md,comparison.json,curves.png,samples.png}}")


if __name__ == "__main__":
    main()
