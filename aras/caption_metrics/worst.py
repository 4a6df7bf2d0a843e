"""The worst captions of each stream: a table of what is wrong with them, and a figure beside images and masks."""

import csv
import textwrap
from collections.abc import Iterable
from pathlib import Path

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


def names(classes: Iterable[int]) -> str:
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
