"""Caption streams: the CSVs in which they lie, and their rows one after another, whatever the size.

A stream is one way of writing captions over all splits, such as `text`. Its captions come from `{split}_{stream}.csv`
with the columns `filename,caption`, from published names (`ARAS400k_synth_text_qwen3_4b.csv`), from shards that are not
joined yet, or from one column of a table that has a column for each stream.
"""

import csv
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from aras.errors import UserError
from aras.legend import CLASS_NAMES
from aras.pairs import GENERATED, SUFFIX
from aras.splits import SPLITS

KNOWN_SPLITS = (*SPLITS, "synth", GENERATED)
NAME = re.compile(rf"(?:ARAS400k_)?(?:(?P<split>{'|'.join(KNOWN_SPLITS)})_)?(?P<stream>.+?)(?:_shard_\d+_of_\d+)?")
FAILURES = ".failures.csv"
LONGEST_CAPTION = 20  # lines; more after a quotation mark are other rows that it swallows
ERROR = "ERROR"  # how a caption begins that is a message of the published Ollama script


class Row(NamedTuple):
    """One caption; `shares` are the class percentages of the table itself, if it has them."""

    split: str  # "" when neither the file nor the row tells
    name: str  # with .png
    caption: str
    shares: tuple[float, ...] | None


@dataclass(frozen=True)
class Source:
    """One column of one CSV.

    Attributes:
        path: the CSV.
        stream: the stream's name.
        column: the place of the captions.
        columns: the places of all columns, by name.
        split: of all rows; "" when each row tells, or none does.
    """

    path: Path
    stream: str
    column: int
    columns: dict[str, int]
    split: str


@dataclass
class Notes:
    """What was left out, told in one line for each file and reason, with how often and the first case."""

    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    first: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, where: Path | str, what: str, example: str = "", count: int = 1) -> None:
        """Note `what` of the file `where`."""
        key = (str(where), what)
        self.counts[key] = self.counts.get(key, 0) + count
        self.first.setdefault(key, example)

    def lines(self) -> list[str]:
        """Return a line for each kind of note."""
        return [
            f"{where}: {count:,} {what}"
            + (f" (the first: {self.first[where, what]})" if self.first[where, what] else "")
            for (where, what), count in self.counts.items()
        ]


def find_sources(paths: Iterable[Path], notes: Notes) -> dict[str, list[Source]]:
    """Return the sources of each stream of the CSVs `paths`, by the stream's name in sorted order.

    Raises:
        UserError: a file is missing, is no table, or has no captions.
    """
    streams: dict[str, list[Source]] = {}
    for path in sorted(set(paths)):
        if not path.name.endswith(FAILURES):
            for source in sources_of(path, notes):
                streams.setdefault(source.stream, []).append(source)
    if not streams:
        raise UserError("there is no CSV of captions; write captions first, or name their CSVs")
    return dict(sorted(streams.items()))


def sources_of(path: Path, notes: Notes) -> list[Source]:
    """Return the sources in the CSV `path`: its column `caption`, else each column that holds text."""
    rows = table_rows(path)
    header = next(rows, None)
    if not header or "filename" not in header:
        raise UserError(f"{path} has no column filename in its first line; a table of captions has filename,caption")
    columns = {name: place for place, name in enumerate(header)}
    found = NAME.fullmatch(path.stem)
    split, stream = (found["split"] or "", found["stream"]) if found else ("", path.stem)
    known = {"filename", "split", *CLASS_NAMES}
    others = [name for name in header if name not in known]
    if "caption" in columns:
        unknown = [name for name in others if name != "caption"]
        sources = [Source(path, stream, columns["caption"], columns, split)]
    else:
        first = next(rows, [])
        texts = [name for name in others if columns[name] < len(first) and " " in first[columns[name]].strip()]
        unknown = [name for name in others if name not in texts]
        sources = [Source(path, name, columns[name], columns, split) for name in texts]
    if not sources:
        raise UserError(f"{path} has no captions: none of its columns is named caption or begins with a sentence")
    if unknown:
        notes.add(path, "columns that are no captions are left out", ", ".join(unknown), len(unknown))
    return sources


def table_rows(path: Path) -> Iterator[list[str]]:
    """Yield the whole rows of the CSV `path`, then nothing, or one empty row for a torn last one.

    Raises:
        UserError: it is missing, or is no table in UTF-8.
    """
    held: list[str] | None = None
    line = 0
    try:
        with path.open("rb") as raw:
            size = raw.seek(0, 2)
            raw.seek(max(size - 1, 0))
            is_whole = raw.read() == b"\n"
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                if held is not None:
                    yield held
                held, line = row, reader.line_num
    except FileNotFoundError:
        raise UserError(f"{path} is missing; write captions first, or check the name") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not in UTF-8; save it as UTF-8") from None
    except csv.Error as error:
        if "unexpected end of data" not in str(error):
            raise UserError(f"{path} is no table from line {line + 1} on ({error}); mend that line") from None
        if reader.line_num - line > LONGEST_CAPTION:
            raise UserError(
                f"{path} has a quotation mark in line {line + 1} that is never closed; mend that line"
            ) from None
        is_whole = False
        if held is not None:
            yield held
        held = []
    if held is not None:
        yield held if is_whole else []


def stream_rows(sources: list[Source], notes: Notes, limit: int | None = None) -> Iterator[Row]:
    """Yield the captions of a stream, the first of each image and at most `limit` of each file.

    Headers in the middle, torn rows, empty captions, error messages and second captions are noted and left out.
    """
    seen: set[bytes] = set()
    for source in sources:
        given = 0
        rows = table_rows(source.path)
        next(rows, None)
        for number, cells in enumerate(rows, 2):
            row, problem = row_of(cells, source, number)
            if row is None:
                notes.add(source.path, problem, f"row {number}")
                continue
            key = hashlib.blake2b(f"{row.split}/{row.name}".encode(), digest_size=8).digest()
            if given == limit:
                break
            if key in seen:
                notes.add(source.path, "captions of images that have one already are left out", row.name)
                continue
            seen.add(key)
            given += 1
            yield row


def row_of(cells: list[str], source: Source, number: int) -> tuple[Row | None, str]:
    """Return a row of `source`, or None and what is wrong with it."""
    columns = source.columns
    if not cells:
        return None, "rows that are torn or blank are left out"
    if len(cells) != len(columns):
        return None, "rows of another number of columns are left out"
    name, caption = cells[columns["filename"]], cells[source.column]
    if name == "filename":
        return None, "rows that repeat the header are left out"
    if not caption.strip():
        return None, "captions that are empty are left out"
    if caption.startswith(ERROR):
        return None, "captions that are error messages are left out"
    split = cells[columns["split"]] if "split" in columns else source.split
    shares = None
    if all(class_name in columns for class_name in CLASS_NAMES):
        try:
            shares = tuple(float(cells[columns[class_name]]) for class_name in CLASS_NAMES)
        except ValueError:
            raise UserError(f"{source.path} row {number}: a class percentage is no number; mend the row") from None
    return Row(split, name if name.endswith(SUFFIX) else name + SUFFIX, caption, shares), ""
