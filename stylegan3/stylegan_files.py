"""Files that are either whole or absent, lines of JSON that survive a kill, and folders that one process writes."""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stylegan_errors import StyleganError

PART = ".part"
LOCK = ".lock"


@contextmanager
def told_of(path: Path) -> Iterator[None]:
    """Have an `OSError` of the body name `path` if it names no file, as that of a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def whole_file(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield `<path>.part` to write to, and rename it onto `path` when the body ends well.

    A process killed at any instruction leaves the old `path` or none, never half a file. With `durable` the bytes are
    on disk before the rename, which also holds through a power cut; leave it out for files by the thousand.
    """
    part = path.with_name(path.name + PART)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with told_of(path):
            yield part
            if durable:
                with part.open("rb") as file:
                    os.fsync(file.fileno())
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def named(path: Path) -> Path:
    """Return `path`, in full where it ends in . or .., so that it has a name and neighbours."""
    return path.resolve() if path.name in ("", "..") else path


def digest_of(path: Path) -> str:
    """Return the SHA-256 of the file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path`, wholly or not at all."""
    with whole_file(path) as part:
        part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Return the JSON value in `path`.

    Raises:
        StyleganError: the file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StyleganError(f"{path} is not readable JSON ({error}); delete it, or name another place") from None


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Append `value` as one line of JSON to `path`, on disk when this returns.

    Raises:
        ValueError: a number is not finite, which JSON cannot say.
    """
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the values of a JSON-lines file, none if it is absent, without lines that a killed process left torn."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def keep_lines(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Leave in the JSON-lines file `path`, if it exists, the lines that are `wanted`."""
    if path.exists():
        lines = [json.dumps(value, ensure_ascii=False) + "\n" for value in read_lines(path) if wanted(value)]
        with whole_file(path) as part:
            part.write_text("".join(lines), encoding="utf-8")


def remove_parts(folder: Path) -> None:
    """Delete what a killed process left half-written in `folder` itself."""
    for part in folder.glob("*" + PART):
        part.unlink(missing_ok=True)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder` while the body runs.

    The kernel drops the lock when the process ends, however it ends, so a killed run never blocks the next.

    Raises:
        StyleganError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StyleganError(
                f"another process is writing to {folder}; wait for it to end, or name another place"
            ) from None
        yield
