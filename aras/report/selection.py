"""What synthetic_select.py kept, and why it dropped the rest."""

from typing import Any

from aras.legend import CLASS_NAMES
from aras.report.balance import GREYS
from aras.report.cards import CLASS_COLORS
from aras.report.mapping import SET_COLORS
from aras.report.page import Bars, Part, Table
from aras.report.pictures import Store
from aras.report.places import Places
from aras.report.reading import Reader, dig, listed, mapped, number_of, plain_text, told_number
from aras.report.training import figure_of

DEEPEST = 3  # how far thresholds may be nested
MOST_ROWS = 60


def selection_parts(places: Places, store: Store, reader: Reader) -> list[Part]:
    """Return what became of the images, the class mixes, the thresholds and the figure."""
    path = places.selection / "selection.json"
    found = reader.json(path)
    parts: list[Part] = [*fates(found), *mixes(found), *thresholds(found)]
    if found and not parts:
        reader.note(f"{path} tells of no selection; run synthetic_select.py again")
    caption = "What each step left, and the classes before and after."
    return parts + figure_of(places.selection / "selection.png", "Selection", store, reader, caption)


def fates(found: dict[str, Any]) -> list[Part]:
    """Return how many images were selected, and how many dropped for each reason."""
    dropped = {plain_text(reason, 80): number_of(count) for reason, count in mapped(found.get("dropped")).items()}
    selected = number_of(found.get("selected"))
    counts = {"selected": selected} | dropped
    known = {name: count for name, count in counts.items() if count is not None}
    total = sum(known.values())
    if selected is None or total <= 0:
        return []
    colors = [SET_COLORS["test"], *(GREYS[rank % len(GREYS)] for rank in range(len(known) - 1))]
    values = [[round(max(0.0, count) / total, 6) for count in known.values()]]
    rows = [[name, f"{count:,.0f}", f"{100 * count / total:.2f}"] for name, count in known.items()]
    columns = ["selected, or why dropped", "images", "%"]
    return [
        Bars("What became of the images", ["images"], [f"{total:,.0f} images"], list(known), colors, values),
        Table("Selected and dropped", columns, rows, [["", "", ""] for _ in rows]),
    ]


def mixes(found: dict[str, Any]) -> list[Part]:
    """Return the classes of all images, of those selected, and those that were aimed at."""
    shares = {plain_text(name, 60): shares_of(value) for name, value in mapped(found.get("mix")).items()}
    known = {name: value for name, value in shares.items() if value}
    if not known:
        return []
    return [Bars("Class mix", list(known), [""] * len(known), list(CLASS_NAMES), CLASS_COLORS, list(known.values()))]


def shares_of(value: Any) -> list[float]:
    """Return the share of each class (7,) in `value`, by name or in the legend's order; nothing if it tells none."""
    given = listed(value) or [dig(value, name) for name in CLASS_NAMES]
    numbers = [max(0.0, number_of(one) or 0.0) for one in given]
    total = sum(numbers)
    return [round(number / total, 6) for number in numbers] if len(numbers) == len(CLASS_NAMES) and total else []


def thresholds(found: dict[str, Any]) -> list[Part]:
    """Return the thresholds and where they come from, as a table of names and values."""
    rows = list(flat(found.get("thresholds"), "", DEEPEST))[:MOST_ROWS]
    return [Table("Thresholds", ["threshold", "value"], rows, [["", ""] for _ in rows])] if rows else []


def flat(value: Any, name: str, depth: int) -> list[list[str]]:
    """Return the numbers and texts in `value` as rows of their names, joined by blanks, and themselves."""
    if isinstance(value, dict) and depth:
        return [
            row for key, one in value.items() for row in flat(one, f"{name} {plain_text(key, 60)}".strip(), depth - 1)
        ]
    number = None if isinstance(value, str) else number_of(value)
    told = told_number(number) if number is not None else plain_text(value, 300)
    return [[name.replace("_", " "), told]] if told and name else []
