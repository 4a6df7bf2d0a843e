"""What synthetic_select.py kept, and why it dropped the rest."""

from typing import Any

from aras.legend import CLASS_NAMES
from aras.report.colors import CLASS_COLORS, GREYS, SET_COLORS
from aras.report.page import Bars, Part, Table
from aras.report.pictures import Store
from aras.report.places import Places
from aras.report.reading import Reader, dig, mapped, number_of, plain_text, told_number
from aras.report.training import figure_of


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
    return [Bars("What became of the images", ["images"], [f"{total:,.0f} images"], list(known), colors, values)]


def mixes(found: dict[str, Any]) -> list[Part]:
    """Return the classes of all images, of those selected, and those that were aimed at."""
    shares = {plain_text(name, 60): shares_of(value) for name, value in mapped(found.get("mix")).items()}
    known = {name: value for name, value in shares.items() if value}
    if not known:
        return []
    away = {name: number_of(value) for name, value in mapped(found.get("distance_to_target")).items()}
    totals = ["" if value is None else f"{100 * value:.1f} % away" for value in map(away.get, known)]
    target = plain_text(found.get("target_mix"), 120)
    note = f"The target: {target}." if target else ""
    return [Bars("Class mix", list(known), totals, list(CLASS_NAMES), CLASS_COLORS, list(known.values()), note)]


def shares_of(value: Any) -> list[float]:
    """Return the share of each class (7,) in `value`, by name; nothing if it tells none."""
    numbers = [max(0.0, number_of(dig(value, name)) or 0.0) for name in CLASS_NAMES]
    total = sum(numbers)
    return [round(number / total, 6) for number in numbers] if total else []


def thresholds(found: dict[str, Any]) -> list[Part]:
    """Return the limits that images were held against, and where they come from."""
    rows = [
        [plain_text(name, 60), told_number(number_of(dig(limit, "value")), 4), plain_text(dig(limit, "source"), 300)]
        for name, limit in mapped(found.get("thresholds")).items()
    ]
    columns = ["limit", "value", "where it comes from"]
    return [Table("Limits", columns, rows, [["", "", ""] for _ in rows])] if rows else []
