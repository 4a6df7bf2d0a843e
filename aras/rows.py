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
    """Return the whole lines of the table at `path` by their first value; none if it is not there.

    For tables of names and numbers, where no value holds a comma or a line break.

    Raises:
        UserError: it is a table of other columns.
    """
    if not path.exists():
        return {}
    head, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True) or [""]
    if not row_text(columns).startswith(head):
        raise UserError(f"{path} is a table of other columns than {', '.join(columns)}; move it away")
    whole = (line for line in lines if line.endswith("\n") and line.count(",") == len(columns) - 1)
    return {line.split(",", 1)[0]: line for line in whole}


def write_sorted(path: Path, columns: tuple[str, ...], rows: dict[str, str], names: Iterable[str]) -> None:
    """Have `path` hold the header and the lines of `names` in sorted order; leave it alone if it does."""
    text = row_text(columns) + "".join(rows[name] for name in sorted(names))
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
