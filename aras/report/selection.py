"""What synthetic_select.py kept, and why it dropped the rest."""

from typing import Any

from aras.legend import CLASS_NAMES
from aras.report.colors import CLASS_COLORS, LEFT_OUT, SET_COLORS
from aras.report.page import Bars, Part, Table
from aras.report.pictures import Store
from aras.report.places import Places
from aras.report.reading import Reader, dig, mapped, number_of, plain_text, told_number
from aras.report.training import figure_of


def selection_parts(places: Places, store: Store, reader: Reader) -> list[Part]:
    """Return what became of the images, the class mixes, the thresholds and the figure."""
    path = places.selection / "selection.json"
    found = reader.json(path)
    name = name_of(reader.json(places.selection / "run.json"))
    parts: list[Part] = [*fates(found, name), *mixes(found, name), *thresholds(found)]
    if found and not parts:
        reader.note(f"{path} tells of no selection; run synthetic_select.py again")
    caption = "What each step left, the classes before and after, and examples of what was kept and dropped, by reason."
    title = f"Selected and dropped {name}, by example"
    return parts + figure_of(places.selection / "selection.png", title, store, reader, caption)


def name_of(told: dict[str, Any]) -> str:
    """Return what was selected from, as the run.json beside a selection tells: "synth images", or "images"."""
    options = mapped(told.get("options"))
    own = options.get("own_images") is True
    name = plain_text(str(options.get("images")).rpartition("/")[2] if own else options.get("set"), 60)
    return f"{name} images" if name else "images"


def fates(found: dict[str, Any], name: str) -> list[Part]:
    """Return how many images were selected, and how many dropped for each reason."""
    dropped = {plain_text(reason, 80): number_of(count) for reason, count in mapped(found.get("dropped")).items()}
    selected = number_of(found.get("selected"))
    counts = {"selected": selected} | {reason: count for reason, count in dropped.items() if count}
    known = {fate: max(0, round(count)) for fate, count in counts.items() if count is not None}
    total = sum(known.values())
    if selected is None or total <= 0:
        return []
    none = [reason for reason, count in dropped.items() if count == 0]
    colors = [SET_COLORS["test"], *(LEFT_OUT[rank % len(LEFT_OUT)] for rank in range(len(known) - 1))]
    values = [[round(count / total, 6) for count in known.values()]]
    note = "Dropped for the first reason that applies." + (f" None for: {', '.join(none)}." if none else "")
    title, totals = f"What became of the {name}", [f"{total:,} images"]
    return [Bars(title, ["all"], totals, list(known), colors, values, note, list(known.values()))]


def mixes(found: dict[str, Any], name: str) -> list[Part]:
    """Return the classes of all images, of those selected, and those that were aimed at."""
    shares = {plain_text(when, 60): shares_of(value) for when, value in mapped(found.get("mix")).items()}
    known = {when: value for when, value in shares.items() if value}
    if not known:
        return []
    away = {when: number_of(value) for when, value in mapped(found.get("distance_to_target")).items()}
    totals = ["" if value is None else f"{100 * value:.1f} % away" for value in map(away.get, known)]
    target = plain_text(found.get("target_mix"), 120)
    note = f"The target: {target}." if target else ""
    note += " Away is the share of pixels that would have to be of another class to have the target's mix." * bool(away)
    return [
        Bars(
            f"Class mix of the {name}", list(known), totals, list(CLASS_NAMES), CLASS_COLORS, list(known.values()), note
        )
    ]


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
