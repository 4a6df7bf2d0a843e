"""What a selection writes: the list, why each other image was left out, and what it all comes to."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aras.errors import UserError
from aras.files import read_json, whole_file, write_json, write_text
from aras.legend import CLASS_NAMES
from aras.pairs import SUFFIX
from aras.rows import row_text
from aras.selection.mix import distance_of_mixes
from aras.selection.steps import REASONS, Selection

DROPPED_COLUMNS = ("filename", "reason", "value", "other")


@dataclass(frozen=True)
class Outputs:
    """The folder of a selection."""

    folder: Path

    @property
    def selected(self) -> Path:
        """The list: a name a line, sorted."""
        return self.folder / "selected.txt"

    @property
    def dropped(self) -> Path:
        """A row for each other image."""
        return self.folder / "dropped.csv"

    @property
    def summary(self) -> Path:
        """Counts, thresholds and mixes; written last, so where it is, all is."""
        return self.folder / "selection.json"

    @property
    def figure(self) -> Path:
        """The same to look at, with images."""
        return self.folder / "selection.png"

    @property
    def record(self) -> Path:
        """run.json."""
        return self.folder / "run.json"

    def is_of(self, key: str) -> bool:
        """Return whether all is there, and made of what `key` stands for."""
        if not all(path.exists() for path in (self.selected, self.dropped, self.summary, self.figure)):
            return False
        found = read_json(self.summary)
        return isinstance(found, dict) and found.get("key") == key


def write_lists(outputs: Outputs, selection: Selection) -> None:
    """Write the names of the selected images, and why each other one was left out, in the order of names."""
    write_text(outputs.selected, "".join(f"{name}\n" for name in selection.names[selection.left].tolist()))
    with whole_file(outputs.dropped) as part, part.open("w", encoding="utf-8") as file:
        file.write(row_text(DROPPED_COLUMNS))
        for place in np.flatnonzero(selection.reason).tolist():
            value = selection.value[place]
            told = "" if np.isnan(value) else f"{value:.6g}"
            name = f"{selection.names[place]}{SUFFIX}"
            file.write(row_text((name, REASONS[selection.reason[place] - 1], told, selection.other[place])))


def summary_of(selection: Selection, shares: np.ndarray, target: np.ndarray, told_target: str) -> dict[str, Any]:
    """Return the selection as selection.json has it.

    Args:
        selection: what became of each image.
        shares: (N, 7) of the classes in each.
        target: (7,) the mix asked for.
        told_target: the same in words.
    """
    read = selection.reason != 1 + REASONS.index("unreadable")
    mixes = {"before": shares[read], "after": shares[selection.left]}
    mix = {name: found.mean(axis=0, dtype=np.float64) for name, found in mixes.items() if len(found)}
    away = {name: distance_of_mixes(found, target) for name, found in mix.items()}
    return {
        "images": len(selection.names),
        "selected": len(selection.left),
        "dropped": selection.counts,
        "thresholds": {name: vars(limit) for name, limit in selection.thresholds.items()},
        "target_mix": told_target,
        "mix": {name: shares_by_class(found) for name, found in (mix | {"target": target}).items()},
        "distance_to_target": {name: round(found, 6) for name, found in away.items()},
    }


def shares_by_class(mix: np.ndarray) -> dict[str, float]:
    """Return the shares (7,) by the names of the classes."""
    return {name: round(float(share), 6) for name, share in zip(CLASS_NAMES, mix, strict=True)}


def write_summary(outputs: Outputs, summary: dict[str, Any], key: str) -> None:
    """Write selection.json."""
    write_json(outputs.summary, {"key": key} | summary)


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """Return what to tell of a selection: how many each step dropped, and the mix of the classes."""
    left = summary["images"]
    lines = [f"{'step':22}{'dropped':>10}{'left':>10}", f"{'':22}{'':>10}{left:10,}"]
    for reason, count in summary["dropped"].items():
        left -= count
        lines.append(f"{reason:22}{count:10,}{left:10,}")
    for name, limit in summary["thresholds"].items():
        lines.append(f"{name}: limit {limit['value']:.4g}, {limit['source']}")
    lines.append(f"{'% of pixels':12}" + "".join(f"{name:>10}" for name in CLASS_NAMES) + "  away from the target")
    for name, mix in summary["mix"].items():
        away = summary["distance_to_target"].get(name)
        told = "" if away is None else f"{100 * away:10.1f} %"
        lines.append(f"{name:12}" + "".join(f"{100 * share:10.1f}" for share in mix.values()) + told)
    return lines


def read_confidence(path: Path) -> dict[str, float]:
    """Return the mean confidence of each image by its stem, from the table that segmentation_predict.py wrote.

    Raises:
        UserError: it is missing, or not such a table.
    """
    remedy = "label the images by segmentation_predict.py, or name --confidence"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if not {"filename", "mean"} <= set(rows.fieldnames or ()):
                raise ValueError("it has no columns filename and mean")
            found = {str(row["filename"]).removesuffix(SUFFIX): float(row["mean"] or "nan") for row in rows}
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {remedy}") from None
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path} is not a table of confidences ({error}); {remedy}") from None
    return {name: mean for name, mean in found.items() if 0 <= mean <= 1}
