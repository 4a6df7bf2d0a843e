"""Tables that grow line by line and survive a kill: whole lines count, a torn last one does not."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aras.errors import UserError
from aras.files import write_text


def row_text(values: Iterable[Any]) -> str:
    """Return `values` as a line of CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue()


def whole_rows(path: Path, columns: tuple[str, ...]) -> dict[str, str]:
    """Return the whole rows of the table at `path`, as lines of CSV, by their first value; none if it is not there.

    Raises:
        UserError: it is a table of other columns, or no table.
    """
    if not path.exists():
        return {}
    try:
        text = path.read_bytes().decode()
        whole = text[: text.rfind("\n") + 1]
        rows = list(csv.reader(io.StringIO(whole, newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a table in UTF-8 ({error}); move it away") from None
    if tuple(rows[0]) != columns if rows else not row_text(columns).startswith(text):
        raise UserError(f"{path} is a table of other columns than {', '.join(columns)}; move it away")
    return {row[0]: row_text(row) for row in rows[1:] if len(row) == len(columns)}


def write_sorted(path: Path, columns: tuple[str, ...], rows: dict[str, str], names: Iterable[str]) -> None:
    """Have `path` hold the header and the lines of `names` in sorted order; leave it alone if it does."""
    text = row_text(columns) + "".join(rows[name] for name in sorted(names))
    if not path.exists() or path.read_bytes() != text.encode():
        write_text(path, text)
