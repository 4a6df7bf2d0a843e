"""Reading what stages left without trusting it: what is torn or foreign is noted, and the rest is shown."""

import csv
import json
import math
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aras.errors import UserError
from aras.files import read_json

MOST_NOTES = 40
"""More are counted, not kept."""

LONGEST_TEXT = 2000  # characters


@dataclass
class Reader:
    """Reads files, and keeps what could not be read; an absent file is nothing, and no reason for a note.

    Attributes:
        notes: what could not be read, in one line each.
        left_out: how many more there were.
    """

    notes: list[str] = field(default_factory=list)
    left_out: int = 0

    def note(self, problem: str) -> None:
        """Keep `problem`, once."""
        told = plain_text(problem)
        if told in self.notes:
            return
        if len(self.notes) < MOST_NOTES:
            self.notes.append(told)
        else:
            self.left_out += 1

    @property
    def count(self) -> int:
        """How many things could not be read."""
        return len(self.notes) + self.left_out

    def lines(self) -> list[str]:
        """Return the notes, and how many more there are."""
        return [*self.notes, f"and {self.left_out:,} more"] if self.left_out else list(self.notes)

    def json(self, path: Path) -> dict[str, Any]:
        """Return the JSON object in `path`; an empty one when it is absent or no such thing."""
        if not path.exists():
            return {}
        try:
            value = read_json(path)
        except (UserError, OSError, RecursionError) as error:
            self.note(told_error(path, error))
            return {}
        if not isinstance(value, dict):
            self.note(f"{path} is no JSON object; run the stage that writes it again")
            return {}
        return value

    def json_lines(self, path: Path) -> Iterator[dict[str, Any]]:
        """Yield the JSON objects in the lines of `path`."""
        if not path.exists():
            return
        try:
            with path.open(encoding="utf-8") as file:
                for number, line in enumerate(file, 1):
                    value = json_or_none(line)
                    if isinstance(value, dict):
                        yield value
                    elif line.strip():
                        self.note(f"{path} line {number} is torn or no JSON object; it is left out")
        except (OSError, UnicodeDecodeError) as error:
            self.note(told_error(path, error))

    def rows(self, path: Path, columns: tuple[str, ...]) -> Iterator[list[str]]:
        """Yield the cells of `columns` of each row of the CSV `path`; a row of another number of cells is noted."""
        if not path.exists():
            return
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                table = csv.reader(file)
                header = next(table, [])
                lacks = [name for name in columns if name not in header]
                if lacks:
                    self.note(f"{path} has no column {', '.join(lacks)}; run the stage that writes it again")
                    return
                places = [header.index(name) for name in columns]
                for row in table:
                    if len(row) == len(header):
                        yield [row[place] for place in places]
                    elif row:
                        self.note(f"{path} line {table.line_num} is torn; it is left out")
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            self.note(told_error(path, error))


def json_or_none(line: str) -> Any:
    """Return the JSON value of `line`, None when it is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def told_error(path: Path, error: Exception) -> str:
    """Return in one line that `path` could not be read."""
    if isinstance(error, UserError):
        return str(error)
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return f"{path} could not be read ({reason})"


def dig(value: Any, *keys: str | int) -> Any:
    """Return what is in `value` under `keys`, one after another; None where something else is."""
    for key in keys:
        if isinstance(value, dict) and isinstance(key, str):
            value = value.get(key)
        elif isinstance(value, list) and isinstance(key, int) and -len(value) <= key < len(value):
            value = value[key]
        else:
            return None
    return value


def listed(value: Any) -> list[Any]:
    """Return `value` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def mapped(value: Any) -> dict[str, Any]:
    """Return `value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def number_of(value: Any) -> float | None:
    """Return `value` as a finite number; None when it is none."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def numbers_of(cells: list[str]) -> list[float] | None:
    """Return `cells` as finite numbers; None when one is none."""
    try:
        found = [float(cell) for cell in cells]
    except ValueError:
        return None
    return found if all(map(math.isfinite, found)) else None


def plain_text(value: Any, longest: int = LONGEST_TEXT) -> str:
    """Return `value` as text of at most `longest` characters that any page can hold.

    Control characters become spaces, and what is no character at all, such as a byte of a file name that is not
    UTF-8, becomes a question mark.
    """
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text[: longest + 1].encode("utf-8", "replace").decode()
    text = "".join(" " if unicodedata.category(sign) in ("Cc", "Cf") else sign for sign in text)
    return text if len(text) <= longest else text[:longest].rstrip() + "…"


def told_number(value: float | None, digits: int = 3) -> str:
    """Return `value` as a table has it: `digits` of them, and no exponent below a million; nothing for None."""
    if value is None:
        return ""
    if value and (abs(value) >= 1e6 or abs(value) < 1e-4):
        return f"{value:.{digits - 1}e}"
    size = math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(0, digits - 1 - size)}f}"
