"""The caption table: a CSV `filename,caption` that grows by whole rows, one per image, and survives a kill.

Rows are appended and on disk before the next batch begins, so the cost of a row does not depend on how many there are.
A caption is one line. Tables of other programs, with several headers, doubled names, line ends of other systems or
errors in the place of captions, are put right once, when they are opened.
"""

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from aras.errors import UserError
from aras.files import whole_file
from aras.rows import row_text

COLUMNS = ("filename", "caption")
HEADER = row_text(COLUMNS).encode()
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
ERROR = "ERROR:"
"""How a published captioner begins what it stores in the place of a caption that failed."""
LONGEST_RECORD = 100  # lines; more within one pair of quotation marks are other rows that a stray one swallows
_ROW = re.compile(rb'"?[^\s,"]+"?,\S')
"""How a row begins, and hardly ever a later line of a caption: a word, and no space after the comma."""


class CaptionTable:
    """A caption table that is open for appending; `open_table` makes one.

    Attributes:
        names: file names of the images that have a caption.
        mended: what had to be put right, by kind.
    """

    def __init__(self, path: Path, file: BinaryIO, names: set[str], mended: Counter[str]) -> None:
        self.path = path
        self.names = names
        self.mended = mended
        self._file = file

    def append(self, captions: dict[str, str]) -> None:
        """Add rows by file name; they are on disk when this returns. Names that have a caption are left out.

        Raises:
            ValueError: a caption is empty or an error message.
        """
        new = {name: one_line(caption) for name, caption in captions.items() if name not in self.names}
        for name, caption in new.items():
            if not is_caption(caption):
                raise ValueError(f"no caption of {name}: {caption!r}")
        if new:
            self._file.write("".join(row_text(row) for row in new.items()).encode())
            self._file.flush()
            os.fsync(self._file.fileno())
            self.names.update(new)


@contextmanager
def open_table(path: Path) -> Iterator[CaptionTable]:
    """Yield the caption table at `path`, made if it is not there; a torn last row is cut off.

    Raises:
        UserError: `path` is no table of captions.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    names, mended = mend(path)
    with path.open("ab") as file:
        if not file.tell():
            file.write(HEADER)
        yield CaptionTable(path, file, names, mended)


def one_line(caption: str) -> str:
    """Return `caption` without line breaks and doubled spaces; characters that UTF-8 lacks become a question mark."""
    return " ".join(caption.encode(errors="replace").decode().replace("\0", " ").split())


def is_caption(caption: str) -> bool:
    """Return whether `caption` is neither empty nor an error message."""
    return bool(caption.strip()) and not caption.startswith(ERROR)


def mend(path: Path) -> tuple[set[str], Counter[str]]:
    """Return the names in the table at `path` and what was put right in it, by kind."""
    if not path.exists():
        return set(), Counter()
    names: set[str] = set()
    found: Counter[str] = Counter()
    end = 0
    for record in records(path):
        fault = fault_of(record, names, path) if end else fault_of_header(record)
        end += len(record)
        if fault:
            found[fault] += 1
    torn = path.stat().st_size - end
    if found:
        rewrite(path)
    elif torn:
        with path.open("r+b") as file:
            file.truncate(end)
            os.fsync(file.fileno())
    if torn:
        found["torn last row"] += 1
    return names, found


def fault_of_header(record: bytes) -> str:
    """Return what is wrong with the header `record`, or an empty text."""
    if record.startswith(BYTE_ORDER_MARK):
        return "byte order mark"
    return "" if record == HEADER else "line end"


def fault_of(record: bytes, names: set[str], path: Path) -> str:
    """Return what is wrong with `record`, or an empty text; its name goes into `names` if it has a caption."""
    name, caption = parsed(record, path)
    if (name, caption) == COLUMNS:
        return "repeated header"
    if not name and not caption:
        return "empty line"
    if not is_caption(caption):
        return "empty caption or error message"
    if name in names:
        return "repeated row"
    names.add(name)
    return "line end" if record.endswith(b"\r\n") or record.count(b"\n") > 1 else ""


def rewrite(path: Path) -> None:
    """Write the table at `path` anew: one header, the first caption of each name, each on one line."""
    seen: set[str] = set()
    with whole_file(path) as part, part.open("wb") as file:
        file.write(HEADER)
        for name, caption in read_captions(path):
            if name not in seen:
                seen.add(name)
                file.write(row_text((name, one_line(caption))).encode())


def read_captions(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (file name, caption) of each row of the table at `path`; what is no caption is left out.

    Raises:
        UserError: `path` is no table of captions.
    """
    for record in records(path):
        name, caption = parsed(record, path)
        if (name, caption) != COLUMNS and is_caption(caption):
            yield name, caption


def names_in(path: Path) -> set[str]:
    """Return the names in the table at `path`, which may be another process's; none if it is not there."""
    return {name for name, _ in read_captions(path)} if path.exists() else set()


def parsed(record: bytes, path: Path) -> tuple[str, str]:
    """Return (file name, caption) of one record of the table at `path`; both are empty for an empty line.

    Raises:
        UserError: it has not two values.
    """
    try:
        text = record.removeprefix(BYTE_ORDER_MARK).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not in UTF-8 ({error}); save it as UTF-8, or name another output") from None
    name, _, rest = text.rstrip("\r\n").partition(",")
    if '"' not in text and rest.count(",") == 0 and "," in text:
        return name, rest
    inner = rest[1:-1]
    if len(rest) > 1 and rest[0] == rest[-1] == '"' and '"' not in name and inner.count('"') == 2 * inner.count('""'):
        return name, inner.replace('""', '"')  # as our rows are; five times as fast as the csv module on one row
    if not text.strip():
        return "", ""
    rows = list(csv.reader(io.StringIO(text, newline="")))
    if len(rows) != 1 or len(rows[0]) != 2:
        told = text.strip()[:60]
        raise UserError(f"{path} is no table of {','.join(COLUMNS)}: it has the line {told!r}; name another output")
    return rows[0][0], rows[0][1]


def records(path: Path) -> Iterator[bytes]:
    """Yield the whole records of the CSV at `path`, header included, as they are; a torn last one is left out.

    A record ends at a line end outside quotation marks.

    Raises:
        UserError: a quotation mark is never closed, or the header is another's.
    """
    held: list[bytes] = []  # lines of a record that has not ended
    quotes = 0
    with path.open("rb") as file:
        head = file.readline(200)
        if parsed(head, path) != COLUMNS if head.endswith(b"\n") else not HEADER.startswith(head):
            raise UserError(f"{path} does not begin with {','.join(COLUMNS)}; it is no table of captions: move it away")
        file.seek(0)
        for line in file:
            held.append(line)
            quotes += line.count(b'"')
            if line.endswith(b"\n") and quotes % 2 == 0:
                yield line if len(held) == 1 else b"".join(held)
                held, quotes = [], 0
            elif len(held) > LONGEST_RECORD:
                break
    if len(held) > LONGEST_RECORD or any(_ROW.match(line) for line in held[1:]):
        told = held[0][:60].decode(errors="replace").rstrip()
        raise UserError(f"{path} has a quotation mark that is never closed, from {told!r} on; mend that line")


def sort_table(path: Path) -> None:
    """Have the rows of the table at `path`, which `mend` has put right, stand in the order of names."""
    places: list[tuple[str, int, int]] = []
    start = 0
    for record in records(path):
        if start:
            places.append((parsed(record, path)[0], start, len(record)))
        start += len(record)
    ordered = sorted(places)
    if ordered == places:
        return
    with whole_file(path) as part, path.open("rb") as old, part.open("wb") as new:
        new.write(HEADER)
        for _, place, length in ordered:
            old.seek(place)
            new.write(old.read(length))
