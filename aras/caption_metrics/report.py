"""The measures of caption streams for people: a table beside the paper's figures, the worst with their images."""

import csv
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from aras.caption_metrics.claims import claims_of
from aras.caption_metrics.grounding import CLOSE
from aras.caption_metrics.measuring import Sampled, found_places
from aras.caption_metrics.reading import POSITIONS
from aras.caption_metrics.truth import Truth
from aras.errors import UserError
from aras.figures import save_figure
from aras.files import whole_file
from aras.legend import CLASS_NAMES, COLORS, read_mask
from aras.pairs import read_image

PAPER: dict[tuple[str, str], dict[str, float]] = {
    ("text", "qwen"): {"redundancy": 46.45, "clip": 26.34},
    ("vision", "gemma"): {"redundancy": 0.84, "clip": 31.06},
    ("vision", "qwen"): {"redundancy": 10.05, "clip": 31.79},
    ("hybrid", "gemma"): {"redundancy": 0.47, "clip": 30.26},
    ("hybrid", "qwen"): {"redundancy": 6.41, "clip": 27.88},
}
"""The paper's streams by kind and model: redundancy in percent, CLIPScore (arXiv 2603.09625)."""

DEFAULT_MODEL = {"text": "qwen", "vision": "gemma", "hybrid": "qwen"}
WORST_COLUMNS = (
    "stream",
    "split",
    "filename",
    "points",
    "invented",
    "denied",
    "dominant",
    "missed",
    "misstated",
    "misplaced",
    "composition",
    "caption",
)
PER_STREAM, MOST_PANELS = 3, 15  # of the figure
SIDE = 2.2  # inches

Summary = dict[str, Any]


def paper_stream(stream: str) -> dict[str, float] | None:
    """Return the paper's figures for a stream of this name, None when it has none of its kind.

    A stream that names no model, such as `text`, is that of the captioner's default model.
    """
    name = stream.lower()
    found = re.match(r"vision_language|hybrid|vision|text", name)
    if not found:
        return None
    kind = "hybrid" if found[0] == "vision_language" else found[0]
    model = next((model for model in ("gemma", "qwen") if model in name), None)
    is_plain = name == found[0]
    return PAPER.get((kind, model or DEFAULT_MODEL[kind])) if model or is_plain else None


# The table


def table(streams: dict[str, Summary], present: float) -> str:
    """Return the measures of `streams` as lines of text, one column a stream."""
    width = max(16, *(len(name) + 2 for name in streams))
    label_width = 38
    lines = [" " * label_width + "".join(f"{name:>{width}}" for name in streams)]
    for label, cell in rows(present):
        cells = [cell(name, summary) for name, summary in streams.items()]
        if any(cells):
            lines.append(f"{label:{label_width}}" + "".join(f"{told or '-':>{width}}" for told in cells))
    return "\n".join(lines)


def rows(present: float) -> list[tuple[str, Callable[[str, Summary], str]]]:
    """Return the rows of the table: what stands before it, and its cell for a stream."""

    def text(key: str, form: str) -> Callable[[str, Summary], str]:
        return lambda _, summary: told(summary["texts"][key], form)

    def truth(key: str, form: str = "percent") -> Callable[[str, Summary], str]:
        return lambda _, summary: with_margin(summary["grounding"][key], form)

    def leak(key: str, form: str) -> Callable[[str, Summary], str]:
        return lambda _, summary: told((summary["leakage"] or {}).get(key), form)

    def paper(measure: str) -> Callable[[str, Summary], str]:
        return lambda name, _: told((paper_stream(name) or {}).get(measure), ".2f")

    return [
        ("captions", text("captions", ",")),
        ("words, mean", lambda _, summary: told(summary["texts"]["words"]["mean"], ".1f")),
        ("exact redundancy %", text("redundancy", "percent")),
        ("  the paper's", paper("redundancy")),
        ("redundancy but for numbers %", text("redundancy_without_numbers", "percent")),
        ("redundancy, near-duplicates %", text("redundancy_near", "percent")),
        ("vocabulary", text("vocabulary", ",")),
        ("distinct-1", text("distinct_1", ".4f")),
        ("distinct-2", text("distinct_2", ".4f")),
        ("distinct-2 of equally many captions", lambda _, summary: told(summary["sample"]["distinct_2"], ".4f")),
        (f"classes of {present:g} % or more, precision %", truth("precision")),
        ("  recall %", truth("recall")),
        ("  F1 %", truth("f1")),
        ("  F1, mean of classes %", truth("f1_macro")),
        ("mentions of a class not there %", truth("hallucination")),
        ("captions with such a mention %", truth("captions_hallucinating")),
        ("denials of a class that is there %", truth("false_denial")),
        ("captions that name a dominant class %", truth("dominant_claimed")),
        ("  rightly %", truth("dominant_accuracy")),
        ("captions that state percentages %", truth("percentages_stated")),
        ("  error in points", truth("percentage_error", ".2f")),
        ("  within one point %", truth("percentages_close")),
        ("stated positions right %", truth("position_accuracy")),
        ("  by chance %", truth("position_chance")),
        ("composition from words, R2", leak("r2", ".3f")),
        ("  error in points", leak("error", ".2f")),
        ("  and from stated percentages, R2", leak("r2_with_numbers", ".3f")),
        ("  error in points", leak("error_with_numbers", ".2f")),
        ("  error of guessing the mean", leak("error_of_mean", ".2f")),
        ("CLIPScore", lambda _, summary: with_margin(summary["clip"] or {"value": None}, ".2f")),
        ("  the paper's", paper("clip")),
    ]


def told(value: float | None, form: str) -> str:
    """Return `value` in a Python format, or as a percentage; nothing for None."""
    if value is None:
        return ""
    return f"{100 * value:.2f}" if form == "percent" else f"{value:{form}}"


def with_margin(score: dict[str, Any], form: str) -> str:
    """Return a score and half the width of its interval."""
    if score["value"] is None:
        return ""
    interval = score.get("interval")
    margin = (interval[1] - interval[0]) / 2 if interval else None
    return told(score["value"], form) + (f" ±{told(margin, form)}" if margin is not None else "")


# The worst captions


def mistakes(kept: Sampled, truth: Truth, present: float) -> dict[str, str]:
    """Return what is wrong with a caption, in words, by the columns of worst_captions.csv."""
    claims, shares = claims_of(kept.row.caption), kept.shares
    there = shares >= present
    dominant = claims.dominant
    is_wrong = dominant is not None and shares[dominant] < shares.max()
    order = np.argsort(-shares, kind="stable")
    off = [(c, value) for c, value in claims.percentages if abs(value - shares[c]) > CLOSE]
    places = found_places(truth, kept.row, known=True)[0] if claims.positions else None
    astray = [(c, position) for c, position in claims.positions if places and not places.denser[c, position]]
    return {
        "invented": names(c for c in sorted(claims.asserted) if shares[c] == 0),
        "denied": names(c for c in sorted(claims.denied) if there[c]),
        "dominant": CLASS_NAMES[dominant] if dominant is not None and is_wrong else "",
        "missed": names(c for c in order if there[c] and c not in claims.asserted),
        "misstated": ", ".join(f"{CLASS_NAMES[c]} {value:g} for {shares[c]:g}" for c, value in off),
        "misplaced": ", ".join(f"{CLASS_NAMES[c]} {POSITIONS[position]}" for c, position in astray),
        "composition": ", ".join(f"{CLASS_NAMES[c]} {shares[c]:g}" for c in order if shares[c] > 0),
    }


def names(classes: Any) -> str:
    """Return the names of `classes`."""
    return ", ".join(CLASS_NAMES[c] for c in classes)


def write_worst(path: Path, worst: dict[str, list[Sampled]], truth: Truth, present: float) -> None:
    """Write the worst captions of each stream, with what is wrong with them, to the CSV `path`."""
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, WORST_COLUMNS, lineterminator="\n")
        writer.writeheader()
        for stream, sampled in worst.items():
            for kept in sampled:
                row = {
                    "stream": stream,
                    "split": kept.row.split,
                    "filename": kept.row.name,
                    "caption": kept.row.caption,
                }
                writer.writerow(row | {"points": f"{kept.points:.3f}"} | mistakes(kept, truth, present))


def draw_worst(path: Path, worst: dict[str, list[Sampled]], truth: Truth, present: float) -> None:
    """Write the worst captions of each stream beside their images and masks as the figure `path`."""
    from matplotlib.figure import Figure

    per_stream = max(1, min(PER_STREAM, MOST_PANELS // max(len(worst), 1)))
    shown = [(stream, kept) for stream, sampled in worst.items() for kept in sampled[:per_stream]][:MOST_PANELS]
    if not shown:
        path.unlink(missing_ok=True)
        return
    figure = Figure(figsize=(5 * SIDE, SIDE * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), 3, squeeze=False, width_ratios=(1, 1, 3))
    for (stream, kept), (left, middle, right) in zip(shown, panels, strict=True):
        for axes, picture in ((left, image_or_none(kept, truth)), (middle, mask_or_none(kept, truth))):
            if picture is None:
                axes.text(0.5, 0.5, "not there", ha="center", va="center", fontsize=8, transform=axes.transAxes)
            else:
                axes.imshow(picture, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
        right.axis("off")
        right.text(
            0, 1, told_caption(stream, mistakes(kept, truth, present), kept), va="top", fontsize=8, parse_math=False
        )
    save_figure(path, figure, dpi=120)


def told_caption(stream: str, wrong: dict[str, str], kept: Sampled) -> str:
    """Return a caption and what is `wrong` with it, in lines for the figure."""
    lines = [f"{stream}  {kept.row.split} {kept.row.name}", *textwrap.wrap(kept.row.caption, 90)[:7], ""]
    for what, told_wrong in wrong.items():
        if told_wrong:
            lines += textwrap.wrap(f"{what}: {told_wrong}", 90)
    return "\n".join(lines)


def image_or_none(kept: Sampled, truth: Truth) -> np.ndarray | None:
    """Return the image of a caption, None when it is not there or cannot be read."""
    path = truth.image_of(kept.row.split, kept.row.name)
    try:
        return read_image(path) if path else None
    except UserError:
        return None


def mask_or_none(kept: Sampled, truth: Truth) -> np.ndarray | None:
    """Return the mask of a caption's image in the legend's colours, None when it is not there or cannot be read."""
    path = truth.mask_of(kept.row.split, kept.row.name)
    try:
        return COLORS[read_mask(path)] if path else None
    except UserError:
        return None
