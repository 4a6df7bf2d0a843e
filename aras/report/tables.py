"""The sections that are tables from another stage's JSON: fidelity, results beside the paper's, captions."""

from pathlib import Path
from typing import Any

from aras.caption_metrics.report import rows as caption_rows
from aras.report.page import Part, Table
from aras.report.pictures import Store
from aras.report.places import Places
from aras.report.reading import Reader, dig, listed, mapped, number_of, plain_text, told_number
from aras.report.training import figure_of

FIDELITY_FIGURES = {
    "measures.png": ("Measures of each set beside the floor", "Each measure of each set, with its interval."),
    "neighbours.png": ("Nearest training images", "Images of each set and the training images nearest to them."),
    "spectra.png": ("Radial power spectra", "How much detail of each size the images of a set have."),
}
PRESENT = 1.0  # percent from which on a class is present, where caption_metrics.json does not tell
WORST = 3  # captions a stream
WORST_COLUMNS = ("stream", "split", "filename", "points", "invented", "denied", "missed", "misstated", "caption")


def fidelity_parts(places: Places, store: Store, reader: Reader) -> list[Part]:
    """Return the measures of all sets beside the floor, why some are absent, and the figures."""
    found = reader.json(places.fidelity / "fidelity.json")
    parts: list[Part] = []
    if found:
        table = fidelity_table(found)
        if table:
            parts.append(table)
        else:
            reader.note(f"{places.fidelity / 'fidelity.json'} has no measures; run synthetic_metrics.py again")
    for name, (title, caption) in FIDELITY_FIGURES.items():
        parts += figure_of(places.fidelity / name, title, store, reader, caption, lossless=name != "neighbours.png")
    return parts


def fidelity_table(found: dict[str, Any]) -> Table | None:
    """Return the table of a fidelity.json: a row a measure, a column a set, real images first, the best set marked."""
    about, sets = mapped(found.get("measures")), mapped(found.get("sets"))
    real = {
        f"{plain_text(dig(found, kind, 'name') or kind, 60)}, real{told}": mapped(found.get(kind))
        for kind, told in (("reference", " (reference)"), ("floor", " (floor)"))
    }
    real = {label: one for label, one in real.items() if mapped(one.get("measures"))}
    every = [*real.values(), *sets.values()]
    rows, marks = [], []
    for name in about:
        cells = [with_limits(dig(one, "measures", name)) for one in every]
        if any(cells):
            best = best_of(name, about, sets)
            of_sets = zip(sets, cells[len(real) :], strict=True)
            rows.append([heading_of(name, about), *cells, plain_text(dig(about, name, "source"), 120)])
            told = ["best" if label == best else "" if cell else "missing" for label, cell in of_sets]
            marks.append(["", *["floor"] * len(real), *told, ""])
    columns = ["measure", *real, *(plain_text(label, 60) for label in sets), "after"]
    notes = fidelity_notes(found, about)
    return Table("Sets of images against the reference", columns, rows, marks, notes) if rows else None


def heading_of(name: str, about: dict[str, Any]) -> str:
    """Return what a measure is called, its unit, and which values are better."""
    better = {"lower": " ↓", "higher": " ↑"}.get(plain_text(dig(about, name, "better")), "")
    unit = plain_text(dig(about, name, "unit"), 20)
    return plain_text(dig(about, name, "heading") or name, 80) + (f", {unit}" if unit else "") + better


def best_of(name: str, about: dict[str, Any], sets: dict[str, Any]) -> str | None:
    """Return which of two or more sets is best by the measure `name`."""
    values = {label: number_of(dig(one, "measures", name, "value")) for label, one in sets.items()}
    known = {label: value for label, value in values.items() if value is not None}
    better = dig(about, name, "better")
    if len(known) < 2 or better not in ("lower", "higher"):
        return None
    return (min if better == "lower" else max)(known, key=lambda label: known[label])


def with_limits(cell: Any) -> str:
    """Return the value of a measure with its interval, or nothing."""
    value, low, high = (number_of(dig(cell, key)) for key in ("value", "low", "high"))
    if value is None:
        return ""
    return told_number(value) + (
        f" [{told_number(low)}, {told_number(high)}]" if low is not None and high is not None else ""
    )


def fidelity_notes(found: dict[str, Any], about: dict[str, Any]) -> list[str]:
    """Return what must be known to read the table."""
    notes = []
    name, count = plain_text(dig(found, "reference", "name"), 60), number_of(found.get("equal_n"))
    if count is not None:
        notes.append(f"{count:,.0f} images of each set, against {name}. Numbers of another count do not compare.")
    notes.append("In brackets 95 % intervals from resampling. The floor is real images: what a perfect set would have.")
    for label, one in mapped(found.get("sets")).items():
        for key, reason in mapped(dig(one, "left_out")).items():
            notes.append(f"{plain_text(label, 60)}, {heading_of(key, about)}: {plain_text(reason, 300)}")
    return notes


def result_tables(places: Places, reader: Reader) -> list[Table]:
    """Return the tables of results.json, each of our rows with the paper's below it; those with ours first."""
    found = reader.json(places.results / "results.json")
    parts: list[Table] = []
    for told in listed(found.get("tables")):
        columns = [plain_text(name, 80) for name in listed(dig(told, "columns"))]
        rows, marks = [], []
        for row in listed(dig(told, "rows")):
            cells = [mapped(cell) for cell in listed(dig(row, "cells"))][: len(columns)]
            cells += [{}] * (len(columns) - len(cells))
            label = plain_text(dig(row, "label"), 120)
            rows.append([label, "ours", *(ours(cell) for cell in cells)])
            marks.append(["", "", *("missing" if cell.get("state") == "not run" else "" for cell in cells)])
            if any(cell.get("paper") for cell in cells):
                rows.append([label, "paper", *(plain_text(cell.get("paper"), 60) for cell in cells)])
                marks.append(["paper"] * (len(columns) + 2))
        if rows:
            header = [plain_text(dig(told, "corner"), 60), "", *columns]
            notes = [plain_text(note, 600) for note in listed(dig(told, "notes"))]
            if any(" †" in cell for row in rows for cell in row):
                notes.insert(0, "† is not comparable with the paper's: of other data, another size or fewer images.")
            parts.append(Table(plain_text(dig(told, "title"), 200), header, rows, marks, notes))
    if found and not parts:
        reader.note(f"{places.results / 'results.json'} has no tables; run results_table.py again")
    return sorted(parts, key=lambda part: not has_ours(part))


def has_ours(table: Table) -> bool:
    """Return whether a table has any number of ours."""
    return any(cell not in ("", "not run") for row in table.rows if row[1] == "ours" for cell in row[2:])


def ours(cell: dict[str, Any]) -> str:
    """Return our number of a cell of results.json."""
    if cell.get("state") == "not run":
        return "not run"
    told = plain_text(cell.get("ours"), 120)
    return f"{told} †" if told and cell.get("state") == "not comparable" else told


def caption_parts(places: Places, store: Store, reader: Reader) -> list[Part]:
    """Return the measures of caption streams, and the worst captions."""
    folder = places.captions / "metrics"
    path = folder / "caption_metrics.json"
    found = reader.json(path)
    streams = mapped(found.get("streams"))
    parts: list[Part] = []
    if streams:
        try:
            parts.append(caption_table(found, streams))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            reader.note(f"{path} is not what caption_metrics.py writes ({error!r}); run it again")
    parts += worst_captions(folder / "worst_captions.csv", reader)
    caption = "The worst captions of each stream, with what is wrong with them."
    return parts + figure_of(folder / "worst_captions.png", "Worst captions", store, reader, caption)


def caption_table(found: dict[str, Any], streams: dict[str, Any]) -> Table:
    """Return the measures of `streams`, one column each.

    Raises:
        KeyError, TypeError, ValueError, IndexError, AttributeError: they are not what caption_metrics.py writes.
    """
    rows, marks = [], []
    for label, cell_of in caption_rows(number_of(dig(found, "options", "present")) or PRESENT):
        cells = [plain_text(cell_of(name, summary), 60) for name, summary in streams.items()]
        if any(cells):
            is_paper = label.strip() == "the paper's"
            rows.append([label.replace("  ", "– ", 1), *cells])
            marks.append(["paper" if is_paper else ""] * (1 + len(cells)))
    together = number_of(dig(found, "all", "redundancy"))
    notes = ["± is half of the 95 % interval over blocks of neighbouring images."]
    if together is not None:
        notes.append(f"Exact redundancy over all streams: {100 * together:.2f} %; the paper's: 12.85 %.")
    notes += [plain_text(note, 300) for note in listed(found.get("notes"))]
    return Table("Caption streams", ["measure", *(plain_text(name, 60) for name in streams)], rows, marks, notes)


def worst_captions(path: Path, reader: Reader) -> list[Part]:
    """Return the first `WORST` captions of each stream in the table `path`, in one table."""
    rows: list[list[str]] = []
    counts: dict[str, int] = {}
    for cells in reader.rows(path, WORST_COLUMNS):
        counts[cells[0]] = counts.get(cells[0], 0) + 1
        if counts[cells[0]] <= WORST and len(rows) < 50:
            rows.append([plain_text(cell, 600) for cell in cells])
    if not rows:
        return []
    marks = [[""] * len(WORST_COLUMNS) for _ in rows]
    return [Table("Captions with the most mistakes", list(WORST_COLUMNS), rows, marks)]
