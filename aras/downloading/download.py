"""Files over HTTP that arrive whole: resumed, measured, checked, and only then given their name.

`<name>.part` holds the bytes so far, and `<name>.origin.part` tells of which version of which file they are the
beginning. A killed download goes on by Range where the server still has that version, else it starts anew.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from aras.downloading.addresses import shown
from aras.downloading.origins import PARTIAL_CONTENT, Origin, continues, origin_path, range_total
from aras.downloading.web import RANGE_NOT_SATISFIABLE, Client
from aras.downloading.web_errors import FetchError, Transient
from aras.files import part_path, write_json

if TYPE_CHECKING:
    from requests import Response

CHUNK = 1 << 20  # bytes
Told = Callable[[Path, int, int | None], None]
"""Told of a path, the bytes that it has so far, and of how many, if that is known anew."""


class Damaged(FetchError):
    """What arrived is not what it should be."""


class Remote(Protocol):
    """A file to fetch; see `aras.downloading.jobs.Job`."""

    path: Path  # where it goes
    url: str
    promised: int | None  # bytes by a catalogue
    size: int | None  # bytes by the server that has it

    def check(self, path: Path) -> None:
        """Raise `Damaged` unless the file at `path` is sound."""


def held_bytes(path: Path) -> int:
    """Return how many bytes of `path` wait in its `.part`."""
    part = part_path(path)
    return part.stat().st_size if part.exists() else 0


def discard(path: Path) -> None:
    """Delete what has been fetched of `path` so far."""
    part_path(path).unlink(missing_ok=True)
    origin_path(path).unlink(missing_ok=True)


def download(client: Client, file: Remote, told: Told) -> None:
    """Fetch `file`, from where an earlier try left it; its path exists only once it is whole and sound.

    Raises:
        Missing: the server has no such file.
        Damaged: it arrived unsound twice.
        FetchError: it could not be had.
    """
    patience, most, damaged = client.patience(), held_bytes(file.path), False
    file.path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            _receive(client, file, told)
            _check(file)
            break
        except Damaged:
            discard(file.path)  # the next try must not build upon it
            if damaged:
                raise
            damaged = True
        except Transient as error:
            held = held_bytes(file.path)
            if held > most:  # new ground, so the server is worth more tries
                most = held
                patience.reset()
            patience.wait(error)
    with part_path(file.path).open("rb") as part:
        os.fsync(part.fileno())
    part_path(file.path).replace(file.path)
    origin_path(file.path).unlink(missing_ok=True)


def _receive(client: Client, file: Remote, told: Told) -> None:
    """Bring the `.part` of `file` to its full length, or raise with what has come so far kept."""
    known = Origin.read(file.path)
    held = held_bytes(file.path)
    if known is None or known.url != shown(file.url):
        known, held = None, 0
    if known and held and held == known.size:
        return  # killed between the last byte and the new name
    headers = {}
    if known and held and known.validator:
        headers = {"Range": f"bytes={held}-", "If-Range": known.validator}
    with client.open("GET", file.url, headers=headers) as response:
        if known and known.size is None and headers and response.headers.get("Content-Range") == f"bytes */{held}":
            write_json(origin_path(file.path), asdict(replace(known, size=held)))  # it was whole already
            return
        if known and headers and continues(response, held, known):
            known = replace(known, size=known.size or range_total(response))
            write_json(origin_path(file.path), asdict(known))
            _append(client, response, file, known, told)
            return
        if response.status_code not in (PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE):
            _append(client, response, file, _begin(response, file), told)
            return
    discard(file.path)
    if not headers:
        raise FetchError(f"HTTP {response.status_code} from {shown(file.url)} to a request for the whole file")
    _receive(client, file, told)  # the server cannot go on from where we are: from the start, without a Range


def _check(file: Remote) -> None:
    """Check the `.part` of `file`, which has come to its end.

    Raises:
        Damaged: it is not what the server has.
        Transient: its length is not known, so it may merely have been cut; the next try asks for the rest.
    """
    known = Origin.read(file.path)
    try:
        if known and known.md5 and md5_of(part_path(file.path)) != known.md5:
            raise Damaged(f"what came from {shown(file.url)} has not the MD5 of its ETag")
        file.check(part_path(file.path))
    except Damaged as error:
        if known and known.size is None:
            raise Transient(f"{error}; the server tells no length, so it may have been cut") from None
        raise


def md5_of(path: Path, make_bar: Callable[..., Any] | None = None) -> str:
    """Return the MD5 of `path` in hexadecimal.

    Args:
        path: the file.
        make_bar: from total and initial bytes and a word to a progress bar, a context manager.
    """
    digest = hashlib.md5(usedforsecurity=False)
    bar = make_bar(path.stat().st_size, 0, f"MD5 of {path.name}") if make_bar else nullcontext()
    with path.open("rb") as file, bar as shown_bar:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            if shown_bar is not None:
                shown_bar.update(len(chunk))
    return digest.hexdigest()


def _begin(response: Response, file: Remote) -> Origin:
    """Empty the `.part` of `file` and note what `response` will fill it with."""
    kind = response.headers.get("Content-Type", "")
    if kind.startswith("text/html"):
        raise FetchError(f"{shown(response.url)} answers with a web page instead of the file; does it ask for a login?")
    part_path(file.path).write_bytes(b"")  # first: old bytes must never stand beside a new origin
    known = Origin.of_response(file.url, response)
    if None not in (known.size, file.promised) and known.size != file.promised:
        raise Damaged(f"{shown(file.url)} has {known.size:,} bytes, the catalogue says {file.promised:,}")
    if known.size is None:
        known = replace(known, size=file.promised or file.size or None)
    write_json(origin_path(file.path), asdict(known))
    return known


def _append(client: Client, response: Response, file: Remote, known: Origin, told: Told) -> None:
    """Add the body of `response` to the `.part` of `file` and check the length."""
    size = known.size
    with part_path(file.path).open("ab") as part:
        told(file.path, part.tell(), size)
        for chunk in client.chunks(response):
            part.write(chunk)
            told(file.path, part.tell(), None)
        held = part.tell()
    if size is not None and held < size:
        raise Transient(f"{held:,} of {size:,} bytes came from {shown(file.url)}")
    if size is not None and held > size:
        raise Damaged(f"{held:,} bytes came from {shown(file.url)}, {size:,} were promised")
