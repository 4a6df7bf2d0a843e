"""Files that are either whole or absent, and folders that one process writes at a time."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from aras.errors import UserError

PART = ".part"
LOCK = ".lock"


def part_path(path: Path) -> Path:
    """Return the name under which `path` is written until it is whole."""
    return path.with_name(path.name + PART)


@contextmanager
def whole_file(path: Path, durable: bool = True, alone: bool = True) -> Iterator[Path]:
    """Yield `<path>.part` to write to, and rename it onto `path` when the body ends well.

    A process killed at any instruction leaves the old `path` or none, never half a file. With `durable` the bytes are
    on disk before the rename, which also holds through a power cut; leave it out for files by the thousand. Where
    another process may write the same `path` at the same time, this one is not `alone`: its part has a name of its own,
    which stays behind after a kill until `remove_parts`.
    """
    part = part_path(path if alone else path.with_name(f"{path.name}.{uuid4().hex}"))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        if durable:
            with part.open("rb") as file:
                os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes, durable: bool = True, alone: bool = True) -> None:
    """Write `content` to `path`, wholly or not at all."""
    with whole_file(path, durable, alone) as part:
        part.write_bytes(content)


def write_text(path: Path, text: str, alone: bool = True) -> None:
    """Write `text` as UTF-8 to `path`, wholly or not at all."""
    write_bytes(path, text.encode(), alone=alone)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path`, wholly or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the JSON value in `path`.

    Raises:
        UserError: the file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not readable JSON ({error}); delete it and run the stage again") from None


def remove_parts(folder: Path) -> None:
    """Delete what a killed process left half-written in `folder` itself; what lies below is another stage's."""
    for part in folder.glob("*" + PART):
        part.unlink(missing_ok=True)


@contextmanager
def sole_writer(target: Path, is_file: bool = False) -> Iterator[None]:
    """Hold the lock of the folder `target`, or of the file `target` if it `is_file`, while the body runs.

    The kernel drops the lock when the process ends, however it ends, so a killed run never blocks the next.

    Raises:
        UserError: another process holds it.
    """
    lock = target.with_name(f".{target.name}{LOCK}") if is_file else target / LOCK
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is writing to {target}; wait for it to end, or name another output"
            ) from None
        yield
