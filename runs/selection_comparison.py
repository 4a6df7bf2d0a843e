"""What choosing among generated images brings to a segmenter: chosen against drawn ones, as many of each, three seeds.

What is compared, and by what, is fixed below, before anything is run. The pool is drawn by the demo's conditional GAN
from the masks of the training split. One arm trains on real images alone, one also on images drawn from the pool by
chance, and one also on as many that synthetic_select.py chooses, by its defaults. All follow the demo's recipe.

The macro F1 of the best epoch on the validation split is what the question is about; validation chose that epoch, and
its images also set the limits of the selection, so the test split's F1 of the same weights stands beside it. Arms of
one seed start from the same weights, so their differences are taken seed by seed.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from aras.command import Command
from aras.errors import UserError
from aras.figures import BLUE, GREY, VERMILION, save_figure
from aras.files import read_json, sole_writer, write_json, write_text
from aras.pairs import SUFFIX, read_names, stems
from aras.runs import begin_run
from aras.segmentation.repeats import seeds_of
from aras.training import read_lines

# ------------------------------------------------------------------------------------------------------------ the plan

SEEDS = "0,1,2"
SAMPLES = 8
"""Images of each training mask in the pool."""

BUDGET = 220
"""Images of the pool to train on beside as many real ones; fewer in both arms if the selection leaves fewer."""

ARMS = ("real", "drawn", "selected")
"""Real images alone; with `BUDGET` of the pool drawn by the seed; with as many that synthetic_select.py chooses."""

RECIPE = (
    *("--arch", "Segformer", "--encoder", "tu-tf_efficientnet_lite0", "--epochs", "18", "--batch-size", "16"),
    *("--patience", "8", "--workers", "0", "--device", "cpu"),
)
"""That of runs/demo.sh."""

SCORES = {"val": "validation, best epoch", "test": "test, the same weights"}
PAIRS = (("drawn", "real"), ("selected", "real"), ("selected", "drawn"))
"""Whose difference is told; the last is the question."""

T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Of Student's distribution, two-sided, by the number of seeds."""

# ------------------------------------------------------------------------------------------------------------- running


@dataclass(frozen=True)
class Folders:
    """Where things lie.

    Attributes:
        demo: what runs/demo.sh wrote.
        output: all that is written here.
    """

    demo: Path
    output: Path

    @property
    def data(self) -> Path:
        """The demo's dataset, whose synth/ is the pool."""
        return self.output / "ARAS400k"

    @property
    def pool(self) -> Path:
        """The pool's images."""
        return self.data / "synth" / "images"

    def training(self, arm: str, seed: int) -> Path:
        """Return the run folder of a training."""
        return self.output / f"{arm}_seed_{seed}"

    def list_of(self, arm: str, seed: int) -> Path:
        """Return the list of what `arm` takes of the pool."""
        return self.output / f"{arm}_{seed}.txt"


def python(name: str, *words: Any) -> list[str]:
    """Return the command line of the script `name`."""
    return [sys.executable, str(ROOT / name), *map(str, words)]


def call(command: list[str], log: Path) -> None:
    """Run `command` on one thread; what it says is added to `log`.

    Raises:
        UserError: it failed.
    """
    with log.open("a") as file:
        done = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
        )
    if done.returncode:
        raise UserError(f"{Path(command[1]).name} failed, see {log}; run the same command again")


def make_pool(folders: Folders) -> None:
    """Have the dataset be there: the demo's splits, and the pool with the masks that it is drawn from."""
    train = (folders.demo / "ARAS400k" / "train").resolve()
    masks = folders.data / "synth" / "masks"
    masks.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val", "test"):
        if not (folders.data / split).exists():
            (folders.data / split).symlink_to((folders.demo / "ARAS400k" / split).resolve())
    weights = ("--weights", folders.demo / "spade" / "best.pt", "--masks", train / "masks", "--output", folders.pool)
    script = "generative_trainer_unet_spade_gan.py"
    options = ("--sample-only", *weights, "--samples-per-mask", SAMPLES, "--device", "cpu", "--workers", 0)
    call(python(script, *options), folders.output / "pool.log")
    for name in stems(folders.pool):
        mask = masks / f"{name}{SUFFIX}"
        if not mask.exists():
            mask.symlink_to(train / "masks" / f"{name.rpartition('_')[0]}{SUFFIX}")


def make_lists(folders: Folders, seed: int) -> None:
    """Write what the arms take of the pool with `seed`: what is selected, and as many drawn from all."""
    chosen = folders.output / f"selection_{seed}"
    call(
        python(
            *("synthetic_select.py", "--data", folders.data, "--confidence", "agreement", "--budget", BUDGET),
            *("--weights", folders.demo / "segmentation" / "best.pt", "--seed", seed, "--outdir", chosen),
            *("--features-cache", folders.output / "features", "--device", "cpu", "--workers", 0),
        ),
        folders.output / "select.log",
    )
    selected = sorted(read_names(chosen / "selected.txt"))
    drawn = np.random.default_rng(seed).choice(sorted(stems(folders.pool)), len(selected), replace=False)
    for arm, names in (("selected", selected), ("drawn", sorted(drawn.tolist()))):
        write_text(folders.list_of(arm, seed), "".join(f"{name}\n" for name in names))


def train(folders: Folders, arm: str, seed: int) -> None:
    """Train the segmenter of `arm` with `seed`."""
    weights = folders.demo / "encoder" / "tf_efficientnet_lite0.safetensors"
    words = ["--data", folders.data, "--encoder-weights", weights, "--seed", seed]
    if arm != "real":
        words += ["--train", "train", "--train", "synth", "--only", f"synth={folders.list_of(arm, seed)}"]
    outdir = folders.training(arm, seed)
    command = python("segmentation_train.py", *RECIPE, *words, "--outdir", outdir)
    call(command, folders.output / f"{outdir.name}.log")


def result_of(folders: Folders, arm: str, seed: int) -> dict[str, Any]:
    """Return what a training came to."""
    folder = folders.training(arm, seed)
    test = read_json(folder / "test_metrics.json")
    lines = read_lines(folder / "metrics.jsonl")
    images = 0 if arm == "real" else len(read_names(folders.list_of(arm, seed)))
    told = {name: test[name] for name in ("epochs", "best_epoch")}
    return {
        "arm": arm,
        "seed": seed,
        "generated": images,
        "val": max(x["f1"] for x in lines),
        "test": test["f1"],
    } | told


# ------------------------------------------------------------------------------------------------------------- telling


def difference_of(results: Sequence[dict[str, Any]], one: str, other: str, score: str) -> dict[str, Any]:
    """Return the mean over seeds of `one` less `other` in `score`, and its 95 % interval by Student's t."""
    by_arm = {arm: {found["seed"]: found[score] for found in results if found["arm"] == arm} for arm in (one, other)}
    each = [by_arm[one][seed] - by_arm[other][seed] for seed in by_arm[one]]
    mean, half = float(np.mean(each)), None
    if len(each) in T_95:
        half = T_95[len(each)] * float(np.std(each, ddof=1)) / len(each) ** 0.5
    interval = None if half is None else [mean - half, mean + half]
    return {"arms": [one, other], "score": score, "mean": mean, "interval95": interval, "each": each}


def table(results: Sequence[dict[str, Any]], differences: Sequence[dict[str, Any]]) -> str:
    """Return the Markdown tables of every training and of the differences, in percent."""
    lines = [
        "| arm | seed | generated images | best epoch of | validation F1 | test F1 |",
        "|---|---|---:|---|---:|---:|",
    ]
    for found in results:
        scores = " | ".join(f"{100 * found[score]:.1f}" for score in SCORES)
        epochs = f"{found['best_epoch']} of {found['epochs']}"
        lines.append(f"| {found['arm']} | {found['seed']} | {found['generated']} | {epochs} | {scores} |")
    for arm in ARMS:
        spread = []
        for score in SCORES:
            values = [100 * found[score] for found in results if found["arm"] == arm]
            spread.append(f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""))
        lines.append(f"| **{arm}** | mean | | | {' | '.join(spread)} |")
    lines += ["", "| difference | validation F1 | test F1 |", "|---|---:|---:|"]
    for pair in PAIRS:
        cells = [told_difference(found) for found in differences if tuple(found["arms"]) == pair]
        lines.append(f"| {pair[0]} - {pair[1]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def told_difference(found: dict[str, Any]) -> str:
    """Return a difference in percentage points, with its interval."""
    mean, interval = 100 * found["mean"], found["interval95"]
    return f"{mean:+.1f}" + (f" ({100 * interval[0]:+.1f} to {100 * interval[1]:+.1f})" if interval else "")


def draw_results(path: Path, results: Sequence[dict[str, Any]], differences: Sequence[dict[str, Any]]) -> None:
    """Write the figure of all trainings' scores, those of one seed joined, and of the differences."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    *panels, pairs = figure.subplots(1, 3)
    for axes, (score, title) in zip(panels, SCORES.items(), strict=True):
        for seed in sorted({found["seed"] for found in results}):
            values = [
                100 * found[score] for arm in ARMS for found in results if (found["arm"], found["seed"]) == (arm, seed)
            ]
            axes.plot(range(len(ARMS)), values, color=GREY, lw=0.8, alpha=0.7, zorder=1)
            axes.scatter(range(len(ARMS)), values, color=[GREY, VERMILION, BLUE], zorder=2)
        axes.set_xticks(range(len(ARMS)), ARMS)
        axes.set_title(f"macro F1, {title}", fontsize=9)
        axes.set_ylabel("%")
        axes.grid(alpha=0.3, axis="y")
    for at, found in enumerate(differences):
        color = BLUE if found["score"] == "val" else VERMILION
        if found["interval95"]:
            pairs.plot([100 * end for end in found["interval95"]], [at, at], color=color)
        pairs.plot(100 * found["mean"], at, "o", color=color)
    names = [f"{' - '.join(found['arms'])}\n{found['score']}" for found in differences]
    pairs.set_yticks(range(len(names)), names, fontsize=7)
    pairs.invert_yaxis()
    pairs.axvline(0, color="black", lw=0.8)
    pairs.set_title("difference, 95 % interval over seeds", fontsize=9)
    pairs.set_xlabel("percentage points")
    save_figure(path, figure, crop=False)


@click.command(cls=Command)
@click.option(
    "--demo",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo"),
    show_default=True,
    help="What runs/demo.sh wrote.",
)
@click.option("--seeds", default=SEEDS, show_default=True, help="Of the trainings, parted by commas.")
@click.option("--together", type=click.IntRange(1), default=2, show_default=True, help="Trainings at a time.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo/selection_comparison"),
    show_default=True,
    help="Folder for the pool, the trainings, the table and the figure.",
)
def main(demo: Path, seeds: str, together: int, output: Path) -> None:
    r"""Train a segmenter with chosen and with drawn images of the demo's conditional GAN, and compare.

    \b
    Reads   DEMO/{ARAS400k,spade,segmentation,encoder}
    Writes  OUTPUT/table.md, comparison.json, comparison.png, and a folder for each training

    Example: python runs/selection_comparison.py

    To resume, run the same command again.
    """
    wanted = seeds_of(seeds)
    folders = Folders(demo, output)
    plan = {"seeds": list(wanted), "samples": SAMPLES, "budget": BUDGET, "recipe": RECIPE}
    with sole_writer(output):
        begin_run(output / "run.json", {"demo": demo, **plan}, ("torch", "numpy"))
        click.echo("Draws the pool, and chooses from it")
        make_pool(folders)
        for seed in wanted:
            make_lists(folders, seed)
        runs = [(arm, seed) for seed in wanted for arm in ARMS]
        click.echo(f"Trains {len(runs)} segmenters, {together} at a time")
        with ThreadPoolExecutor(together) as pool:
            for _ in pool.map(lambda run: train(folders, *run), runs):
                pass
        results = [result_of(folders, arm, seed) for arm in ARMS for seed in wanted]
        differences = [difference_of(results, *pair, score) for pair in PAIRS for score in SCORES]
        write_json(output / "comparison.json", {"plan": plan, "results": results, "differences": differences})
        told = table(results, differences)
        write_text(output / "table.md", told)
        draw_results(output / "comparison.png", results, differences)
    click.echo(told)
    click.echo(f"Writes {output}/{{table.md,comparison.json,comparison.png}}")


if __name__ == "__main__":
    main()
