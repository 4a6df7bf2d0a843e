"""Two-column tables that one run leaves for the next: which tiles do not exist, and what failed and why."""

import csv
from collections.abc import Callable
from pathlib import Path

from aras.files import whole_file


def read_notes(path: Path) -> dict[str, str]:
    """Return {name: text} of the table at `path`; empty when there is none."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        return {row[0]: row[1] for row in list(csv.reader(file))[1:] if len(row) == 2}


def update_notes(path: Path, header: tuple[str, str], notes: dict[str, str], about: Callable[[str], bool]) -> None:
    """Put `notes`, {name: text}, in place of all rows whose name `about` accepts; an empty table is no file."""
    kept = {name: text for name, text in read_notes(path).items() if not about(name)}
    rows = sorted((kept | notes).items())
    if not rows:
        path.unlink(missing_ok=True)
        return
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
