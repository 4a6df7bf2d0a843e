"""Figures of a comparison: measures beside their floor, mean power spectra, and the images nearest to training ones."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aras.feature_maps.row_files import ROWS_AT_ONCE
from aras.feature_maps.scatter import COLORS
from aras.fidelity.image_statistics import statistics_of
from aras.fidelity.running import TRAINING, Plan
from aras.figures import save_figure
from aras.pairs import SUFFIX, read_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FLOOR, REFERENCE = "#666666", "#000000"
COLUMNS = 4
MARKERS = "osD^vPX*"
DPI = 200
TITLE_WIDTH = 42  # letters in the width of a panel


FIGURES = ("measures.png", "spectra.png", "neighbours.png")


def figures_of(plan: Plan, results: dict[str, Any]) -> list[Path]:
    """Return the figures that `results` have: the last one only where copies were looked for."""
    looked = any(told["closest"] for told in shown(results).values())
    return [plan.outdir / name for name in (FIGURES if looked else FIGURES[:2])]


def draw_figures(plan: Plan, results: dict[str, Any]) -> None:
    """Write the figures that `results` have, and delete the others."""
    measures, spectra, neighbours = (plan.outdir / name for name in FIGURES)
    draw_measures(measures, results)
    draw_spectra(spectra, plan)
    if neighbours in figures_of(plan, results):
        draw_neighbours(neighbours, plan, results)
    else:
        neighbours.unlink(missing_ok=True)


def shown(results: dict[str, Any]) -> dict[str, Any]:
    """Return the sets of `results` whose images are worth looking at: all but noise."""
    return {name: told for name, told in results["sets"].items() if not told["noise"]}


def styles(results: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return by name the colour and the marker of each set, the same in every figure."""
    return {name: (COLORS[k % len(COLORS)], MARKERS[k % len(MARKERS)]) for k, name in enumerate(results["sets"])}


def draw_measures(path: Path, results: dict[str, Any]) -> None:
    """Write a panel for each measure: the value of every set with its interval, beside that of the floor."""
    from matplotlib.figure import Figure

    rows = {name: told["measures"] for name, told in results["sets"].items()}
    floor, reference = results["floor"], results["reference"]
    keys = [key for key in results["measures"] if any(key in measures for measures in rows.values())]
    lines = -(-len(keys) // COLUMNS)
    height = 0.75 + 0.22 * (len(rows) + 1)
    figure = Figure(figsize=(3.1 * COLUMNS, lines * height + 0.7), layout="constrained")
    panels = figure.subplots(lines, COLUMNS, squeeze=False).ravel()
    for axes, key in zip(panels, keys, strict=False):
        mark = (floor or reference)["measures"].get(key) or reference["measures"].get(key)
        told = floor["name"] if floor and key in floor["measures"] else reference["name"]
        draw_panel(
            axes, results["measures"][key], {name: m.get(key) for name, m in rows.items()}, mark, told, styles(results)
        )
    for axes in panels[len(keys) :]:
        axes.set_visible(False)
    title = f"{results['equal_n']:,} images of each set against {results['equal_n']:,} of {reference['name']}"
    figure.suptitle(f"{title}; bars are 95 % intervals, grey and dotted is what other real images have", fontsize=10)
    save_figure(path, figure, DPI, crop=False)


def draw_panel(
    axes: "Axes",
    about: dict[str, str],
    values: dict[str, dict[str, Any] | None],
    mark: dict[str, Any] | None,
    mark_name: str,
    style: dict[str, tuple[str, str]],
) -> None:
    """Draw one measure of all sets, one below the other, and the `mark` of real images as a line through all."""
    named = [*([(mark_name, mark)] if mark else []), *values.items()]
    found = [each["value"] for _, each in named if each]
    is_wide = about["better"] == "lower" and min(found) > 0 and max(found) > 20 * min(found)
    if is_wide:
        axes.set_xscale("log")
    for row, (name, each) in enumerate(named):
        color, marker = style.get(name, (FLOOR, "o"))
        if each is None:
            axes.text(
                0.5,
                row,
                "not measured",
                transform=axes.get_yaxis_transform(),
                fontsize=6.5,
                color="0.5",
                va="center",
                ha="center",
            )
            continue
        if each["low"] is not None:
            low = max(each["low"], min(found) / 3) if is_wide else each["low"]
            axes.plot([low, each["high"]], [row, row], color=color, lw=2, solid_capstyle="butt", alpha=0.7)
        axes.plot(each["value"], row, marker=marker, color=color, ms=5, ls="")
    usual = [mark["value"]] if mark else [each["expected"] for _, each in named if each and "expected" in each][:1]
    for value in usual:
        axes.axvline(value, color=FLOOR, lw=0.8, ls=":", zorder=0)
    axes.set_yticks(range(len(named)), [name for name, _ in named], fontsize=7)
    axes.set_ylim(len(named) - 0.5, -0.5)
    better = "left is better" if about["better"] == "lower" else "right is better"
    axes.set_title(textwrap.fill(about["heading"], TITLE_WIDTH), fontsize=8)
    axes.set_xlabel(f"{about['unit']} ({better})".strip(), fontsize=7, labelpad=1)
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def mean_spectrum(plan: Plan, name: str) -> np.ndarray:
    """Return the mean spectrum (K,) of the set `name` in decibels."""
    own = plan.sets[name]
    layout = statistics_of(plan.size, own.folder.masks is not None)
    rows = layout.spectra(plan.statistics_of(own.folder).rows(own.places))
    total = sum(
        rows[start : start + ROWS_AT_ONCE].sum(axis=0, dtype=float) for start in range(0, len(rows), ROWS_AT_ONCE)
    )
    return np.asarray(total) / len(rows)


def draw_spectra(path: Path, plan: Plan) -> None:
    """Write mean power by frequency of all sets, and beside it how far each is off the reference."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    real = mean_spectrum(plan, plan.reference)
    frequencies = np.arange(1, len(real) + 1) / min(plan.size)
    marks = {name: k for k, name in enumerate(plan.generated)}
    for name in plan.sets:
        color = COLORS[marks[name] % len(COLORS)] if name in marks else FLOOR if name == plan.floor else REFERENCE
        line = "-" if name in marks else "--"
        label = f"{name} (reference)" if name == plan.reference else f"{name} (floor)" if name == plan.floor else name
        own = mean_spectrum(plan, name)
        left.plot(frequencies, own, line, color=color, lw=1.5, label=label)
        if name != plan.reference:
            right.plot(frequencies, own - real, line, color=color, lw=1.5, label=label)
    right.axhline(0, color=REFERENCE, lw=0.8, ls="--")
    left.set_title("mean power spectrum", fontsize=10)
    left.set_ylabel("power, dB (squared grey levels)")
    right.set_title(f"difference from {plan.reference}", fontsize=10)
    right.set_ylabel("dB")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xlabel("frequency, cycles per pixel (fine detail on the right)")
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    figure.suptitle(f"{plan.number:,} images of each set", fontsize=10)
    save_figure(path, figure, DPI, crop=False)


def draw_neighbours(path: Path, plan: Plan, results: dict[str, Any]) -> None:
    """Write each set's images that are nearest to a training image, above that image, the nearest first."""
    from matplotlib.figure import Figure

    space = next(iter(results["spaces"]))
    sets = {name: told["closest"][space] for name, told in shown(results).items() if told["closest"].get(space)}
    columns = max(map(len, sets.values()))
    figure = Figure(figsize=(1.2 * columns + 0.3, 2.75 * len(sets) + 0.5), layout="constrained")
    for part, (name, closest) in zip(figure.subfigures(len(sets), 1, squeeze=False).ravel(), sets.items(), strict=True):
        part.suptitle(
            f"{name}: above images of it, below the training image nearest to each", fontsize=8, x=0.01, ha="left"
        )
        panels = part.subplots(2, columns, squeeze=False, gridspec_kw={"hspace": 0.0, "wspace": 0.02})
        for axes in panels.ravel():
            axes.set_axis_off()
        for each, one, other in zip(closest, *panels, strict=False):
            one.imshow(read_image(plan.sets[name].images / f"{each['image']}{SUFFIX}"))
            other.imshow(read_image(plan.whole[TRAINING].images / f"{each['nearest']}{SUFFIX}"))
            one.set_title(f"{each['ratio']:.2f}", fontsize=8, pad=2)
    training = results["training_images"]["images"]
    figure.suptitle(
        f"The nearest of {plan.number:,} images to {training:,} training images ({space}). Numbers: distance over the"
        f" median one of {plan.reference}; 0 is a copy",
        fontsize=9,
    )
    save_figure(path, figure, DPI, crop=False)
