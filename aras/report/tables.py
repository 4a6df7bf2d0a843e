"""The sections that are tables from another stage's JSON: results beside the paper's, captions."""

import re
from pathlib import Path
from typing import Any

from aras.caption_metrics.report import rows as caption_rows
from aras.report.page import Part, Table
from aras.report.pictures import Store
from aras.report.places import Places
from aras.report.reading import Reader, dig, listed, mapped, number_of, plain_text
from aras.report.training import figure_of

ABSOLUTE = re.compile(r"(?<![\w:/.])/(?:[^/\s]+/)*([^/\s]+/[^/\s]+)")
"""A path from the root of a machine, of which a title keeps the last two parts."""

LONG = 20  # rows, from which on a table is folded
PRESENT = 1.0  # percent from which on a class is present, where caption_metrics.json does not tell
WORST = 3  # captions a stream
WORST_COLUMNS = ("stream", "split", "filename", "points", "invented", "denied", "missed", "misstated", "caption")


def result_tables(places: Places, reader: Reader) -> list[Table]:
    """Return the tables of results.json, each of our rows with the paper's below it.

    Those without a number of ours, and long ones, are folded and come last.
    """
    found = reader.json(places.results / "results.json")
    parts = [table for told in listed(found.get("tables")) if (table := result_table(told))]
    if found and not parts:
        reader.note(f"{places.results / 'results.json'} has no tables; run results_table.py again")
    return sorted(parts, key=lambda part: part.folded)


def result_table(told: Any) -> Table | None:
    """Return one table of results.json, None when it has no rows."""
    columns = [plain_text(name, 80) for name in listed(dig(told, "columns"))]
    given = listed(dig(told, "rows"))
    of_row = [[mapped(cell) for cell in listed(dig(row, "cells"))][: len(columns)] for row in given]
    has_paper = any(cell.get("paper") for cells in of_row for cell in cells)
    rows, marks = [], []
    for row, cells in zip(given, of_row, strict=True):
        cells += [{}] * (len(columns) - len(cells))
        label = plain_text(dig(row, "label"), 120)
        rows.append([label, *(["ours"] if has_paper else []), *map(ours, cells)])
        states = ["missing" if cell.get("state") == "not run" else "" for cell in cells]
        marks.append(["", *([""] if has_paper else []), *states])
        if any(cell.get("paper") for cell in cells):
            rows.append([label, "paper", *(plain_text(cell.get("paper"), 60) for cell in cells)])
            marks.append(["paper"] * (len(columns) + 2))
    header = [plain_text(dig(told, "corner"), 60), *([""] if has_paper else []), *columns]
    notes = [plain_text(note, 600) for note in listed(dig(told, "notes"))]
    if any(" †" in cell for row in rows for cell in row):
        notes.insert(0, "† is not comparable with the paper's: of other data, another size or fewer images.")
    has_ours = any(ours(cell) not in ("", "not run") for cells in of_row for cell in cells)
    title = ABSOLUTE.sub(r"\1", plain_text(dig(told, "title"), 200))
    return Table(title, header, rows, marks, notes, folded=not has_ours or len(rows) > LONG) if rows else None


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
