"""Curves and test scores of the training runs: segmenters, the conditional GAN, StyleGAN."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from aras.errors import UserError
from aras.legend import CLASS_NAMES
from aras.pairs import read_image
from aras.report.page import Curve, Figure, Part, Series, Table
from aras.report.pictures import Store, scaled
from aras.report.places import Places
from aras.report.reading import Reader, dig, listed, mapped, number_of, plain_text

MOST_RUNS = 6  # of a kind, whose curves are shown
MOST_ROWS = 200  # of the table of all runs
MOST_POINTS = 400  # of a line
MOST_LINES = 1_000_000  # of a log; a training writes some thousand
FIGURE = 1600  # pixels, the longer side of a figure from a file

Line = dict[str, Any]


@dataclass(frozen=True)
class Log:
    """How a curve is read from a log: its title, axis, and what is drawn by name, each by keys into a line."""

    title: str
    label: str
    lines: dict[str, tuple[str, ...]]


LOSS, SCORE, SHARE = "loss", "score", "0 to 1"
SEGMENTATION = (
    Log("loss", LOSS, {"train": ("train_loss",), "validation": ("val_loss",)}),
    Log("validation scores", SCORE, {"F1": ("f1",), "IoU": ("iou",), "accuracy": ("accuracy",)}),
    Log("validation IoU of each class", "IoU", {name: ("class_iou", name) for name in CLASS_NAMES}),
)
CONDITIONAL = (
    Log(
        "Fréchet distance of drawn images",
        "Fréchet distance",
        {"all samples": ("frechet",), "one of each mask": ("frechet_one_each",)},
    ),
    Log(
        "agreement of drawn images with their masks",
        SHARE,
        {"mean IoU": ("agreement_miou",), "accuracy": ("agreement_accuracy",)},
    ),
    Log("losses", LOSS, {"discriminator": ("discriminator_loss",), "generator": ("generator_loss",)}),
)
UNCONDITIONAL = (
    Log("losses", LOSS, {"discriminator": ("Loss/D/loss", "mean"), "generator": ("Loss/G/loss", "mean")}),
    Log(
        "mean score of the discriminator",
        "score",
        {"real": ("Loss/scores/real", "mean"), "generated": ("Loss/scores/fake", "mean")},
    ),
    Log("strength of the augmentation", "probability", {"p": ("Progress/augment", "mean")}),
)


@dataclass(frozen=True)
class Run:
    """A training run: its folder and what the page calls it, what it trains, and how its log is read."""

    folder: Path
    name: str
    kind: str
    log: Path
    x_keys: tuple[str, ...]
    x_label: str
    curves: tuple[Log, ...]


def runs_in(places: Places, folders: Iterable[Path], reader: Reader) -> list[Run]:
    """Return the training runs among `folders`, told apart by what their logs hold."""
    runs = []
    for folder in folders:
        name = plain_text(places.shown(folder), 200)
        stats, metrics = folder / "stats.jsonl", folder / "metrics.jsonl"
        if stats.is_file():
            runs.append(
                Run(folder, name, "StyleGAN", stats, ("Progress/kimg", "mean"), "thousand images seen", UNCONDITIONAL)
            )
        elif metrics.is_file():
            first: Line = next(iter(reader.json_lines(metrics)), {})
            if "discriminator_loss" in first or "generator_loss" in first:
                runs.append(
                    Run(folder, name, "Conditional GAN", metrics, ("kimg",), "thousand images seen", CONDITIONAL)
                )
            elif "epoch" in first:
                runs.append(Run(folder, name, "Segmenter", metrics, ("epoch",), "epoch", SEGMENTATION))
        elif (folder / "test_metrics.json").is_file():
            runs.append(Run(folder, name, "Segmenter", metrics, ("epoch",), "epoch", SEGMENTATION))
    return runs


def training_parts(runs: list[Run], store: Store, reader: Reader) -> list[Part]:
    """Return the test scores of all segmenters, and the curves of the first runs of each kind."""
    segmenters = [run for run in runs if run.kind == "Segmenter"]
    parts: list[Part] = []
    tested = {run.name: reader.json(run.folder / "test_metrics.json") for run in segmenters[:MOST_ROWS]}
    tested = {name: scores for name, scores in tested.items() if scores}
    if tested:
        parts.append(table_of_scores(tested))
    if len(tested) == 1:
        parts += [table_of_classes(*next(iter(tested.items())))]
        (only,) = (run for run in segmenters if run.name in tested)
        parts += figure_of(only.folder / "confusion_matrix.png", "Confusion matrix", store, reader)
    for kind in dict.fromkeys(run.kind for run in runs):
        alike = [run for run in runs if run.kind == kind]
        others = f" (one of {len(alike):,}; the first {MOST_RUNS} are shown)" if len(alike) > MOST_RUNS else ""
        for run in alike[:MOST_RUNS]:
            parts += curves_of(run, reader, run.name + others)
    return parts


def table_of_scores(tested: dict[str, Line]) -> Table:
    """Return the scores on the test split by run, the best of each marked."""
    names = ("f1", "iou", "accuracy", "precision", "recall")
    values = [[number_of(scores.get(name)) for name in names] for scores in tested.values()]
    best = [max((row[place] or 0 for row in values), default=0) for place in range(len(names))]
    rows, marks = [], []
    for (folder, scores), row in zip(tested.items(), values, strict=True):
        images = number_of(scores.get("images"))
        cells = [with_interval(scores, name, value) for name, value in zip(names, row, strict=True)]
        rows.append([folder, f"{images:,.0f}" if images is not None else "", *cells])
        is_best = [len(values) > 1 and value is not None and value == top for value, top in zip(row, best, strict=True)]
        marks.append(["", "", *("best" if best_here else "" for best_here in is_best)])
    columns = ["run", "test images", "macro F1, %", "IoU, %", "accuracy, %", "precision, %", "recall, %"]
    notes = ["Means over the classes that the test split has. In brackets 95 % intervals over blocks of neighbours."]
    return Table("Segmentation of the test split", columns, rows, marks, notes)


def with_interval(scores: Line, name: str, value: float | None) -> str:
    """Return a score in percent with its interval, if it has one."""
    if value is None:
        return ""
    low, high = (number_of(dig(scores, "interval95", name, end)) for end in (0, 1))
    told = f" [{100 * low:.1f}, {100 * high:.1f}]" if low is not None and high is not None else ""
    return f"{100 * value:.2f}{told}"


def table_of_classes(name: str, scores: Line) -> Table:
    """Return the scores of each class of one run."""
    pixels = sum(number_of(dig(scores, "classes", c, "support")) or 0 for c in CLASS_NAMES)
    rows, marks = [], []
    for c in CLASS_NAMES:
        found = mapped(dig(scores, "classes", c))
        if c in listed(scores.get("absent")):
            rows.append([c, "", "", "", "", "0"])
        elif found:
            values = [number_of(found.get(key)) for key in ("f1", "iou", "precision", "recall")]
            share = 100 * (number_of(found.get("support")) or 0) / max(pixels, 1)
            rows.append([c, *("" if v is None else f"{100 * v:.2f}" for v in values), f"{share:.2f}"])
        else:
            continue
        marks.append(["missing" if not cell else "" for cell in rows[-1]])
    columns = ["class", "F1, %", "IoU, %", "precision, %", "recall, %", "share of pixels, %"]
    return Table(f"Classes of the test split, {name}", columns, rows, marks)


def curves_of(run: Run, reader: Reader, note: str) -> list[Curve]:
    """Return the curves of a run; those of which its log has nothing are left out."""
    points: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for count, line in enumerate(reader.json_lines(run.log)):
        x = number_of(dig(line, *run.x_keys))
        if x is None or count >= MOST_LINES:
            continue
        for keys in (keys for log in run.curves for keys in log.lines.values()):
            value = number_of(dig(line, *keys))
            if value is not None:
                points.setdefault(keys, []).append((round(x, 6), float(f"{value:.6g}")))
    curves = []
    for log in run.curves:
        series = [series_of(name, points[keys]) for name, keys in log.lines.items() if keys in points]
        if series:
            title = f"{run.kind}: {log.title}"
            curves.append(Curve(title, run.x_label, log.label, series, note))
    return curves + metric_curves(run, reader, note)


def metric_curves(run: Run, reader: Reader, note: str) -> list[Curve]:
    """Return the fidelity metrics of a StyleGAN's snapshots, one curve a metric."""
    curves = []
    for path in sorted(run.folder.glob("metric-*.jsonl")) if run.kind == "StyleGAN" else ():
        points: dict[str, list[tuple[float, float]]] = {}
        for line in reader.json_lines(path):
            name = plain_text(line.get("snapshot_pkl"), 200)
            kimg = number_of(name.removeprefix("network-snapshot-").partition(".")[0])
            for key, value in mapped(line.get("results")).items():
                number = number_of(value)
                if kimg is not None and number is not None:
                    points.setdefault(plain_text(key, 60), []).append((kimg, number))
        if points:
            series = [series_of(name, found) for name, found in points.items()]
            title = f"{run.kind}: {plain_text(path.stem.removeprefix('metric-'), 60)} of snapshots"
            curves.append(Curve(title, run.x_label, "value", series, note))
    return curves


def series_of(name: str, points: list[tuple[float, float]]) -> Series:
    """Return a line of at most `MOST_POINTS` of `points`, the last of them always."""
    step = -(-len(points) // MOST_POINTS)
    kept = points[(len(points) - 1) % step :: step]
    return Series(name, [x for x, _ in kept], [y for _, y in kept])


def figure_of(
    path: Path, title: str, store: Store, reader: Reader, caption: str = "", lossless: bool = True
) -> list[Figure]:
    """Return the picture file `path` as a figure in one list, or an empty one when it is absent or cannot be read.

    Plots are kept `lossless`; photographs need not be.
    """
    if not path.is_file():
        return []
    try:
        image = scaled(Image.fromarray(read_image(path)), FIGURE)
    except UserError as error:
        reader.note(str(error))
        return []
    return [Figure(title, store.picture(image, title, lossless), caption)]
