"""What the published zips hold, unpacked into ARAS400k's folders.

A zip is not trusted to stay in its folder: absolute paths, `..`, drives and links are refused before any is written.
"""

from __future__ import annotations

import csv
import errno
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from aras.downloading.download import md5_of
from aras.downloading.jobs import FAILED, PRESENT, check_free
from aras.downloading.notes import update_notes
from aras.downloading.percentages import FAILURES, lacks_percentages, write_percentages
from aras.downloading.zenodo import State, ZipJob
from aras.errors import UserError
from aras.files import whole_file

CHUNK = 1 << 20  # bytes
BLOCK = 4096  # bytes that a file takes at least on disk
SPLITS = ("train", "val", "test", "synth")
ROOMS = ("images", "masks", "generated")
SHARED = ("class_percentages", "captions")
LITTER = ("__MACOSX", ".DS_Store", "Thumbs.db")
UNNAMEABLE = frozenset({errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ})
"""Errors of the name of one entry, not of the disk."""


def put_in_place(job: ZipJob, state: State, data: Path, make_bar: Callable[..., Any]) -> None:
    """Unpack a zip that has its MD5 into the dataset at `data`, and write the class percentages that it lacks.

    A zip that was deleted after unpacking stays so. What cannot be done is noted on `job`; `make_bar` as in `unpack`.
    """
    split = job.path.stem
    try:
        if job.path.exists():
            state.set_verified(job.path, job.md5)
            entries = unpack(job.path, data, state.unpacked(job.name, job.md5), make_bar)
            write_listing(data, split, entries)
            state.set_unpacked(job.name)
        if lacks_percentages(data, split) and (bad := write_percentages(data, split)):
            job.fail(f"{bad} masks of {split} cannot be read, see {data / FAILURES}")
    except UserError as error:
        job.fail(str(error))


def write_reports(jobs: list[ZipJob], data: Path) -> None:
    """Bring what failures.csv of the dataset at `data` says of zips up to date."""
    failed = {job.name: job.reason for job in jobs if job.state == FAILED}
    update_notes(data / FAILURES, ("file", "reason"), failed, lambda name: name.endswith(".zip"))


def mark_present(job: ZipJob, state: State, data: Path, make_bar: Callable[..., Any] | None) -> None:
    """Mark the zip as present if it is there with its MD5, or was unpacked and then deleted to save space.

    Otherwise `job` stays wanted, with a reason if something is there. Without `make_bar` (see `unpack`) nothing is
    hashed.
    """
    if not job.path.exists():
        if state.unpacked(job.name, job.md5):
            lost = first_lost(data, job.path.stem)
            job.state, job.reason = (job.state, f"it was unpacked, but {lost} is lost") if lost else (PRESENT, "")
    elif state.verified(job.path, job.md5):
        job.state = PRESENT
    elif make_bar is None:
        job.reason = "its MD5 was not compared yet; a run without --dry-run does it, and keeps the file if it is right"
    elif md5_of(job.path, make_bar) == job.md5:
        state.set_verified(job.path, job.md5)
        job.state = PRESENT
    else:
        job.reason = "it does not have the published MD5"


def safe_parts(name: str) -> tuple[str, ...]:
    """Return the parts of the path `name` inside a zip.

    Raises:
        UserError: it would leave the folder that it is unpacked into.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name) or "\0" in name:
        raise UserError(f"the entry {name!r} would leave the dataset's folder; the zip is not to be trusted")
    return path.parts


def place_of_entry(name: str, split: str) -> PurePosixPath | None:
    """Return where in the dataset's folder the entry `name` of the zip of `split` belongs; None for litter.

    The zip may hold `train/images/...`, `ARAS400k/train/images/...` or bare `images/...`: all land in `train/images`.

    Raises:
        UserError: it would leave the dataset's folder, or is of another split.
    """
    parts = safe_parts(name)
    if not parts or any(part in LITTER for part in parts):
        return None
    room = next((at for at, part in enumerate(parts) if part in (*ROOMS, *SHARED)), len(parts) - 1)
    if split in SPLITS and set(parts[:room]) & {*SPLITS} - {split}:
        raise UserError(f"the entry {name!r} is not of {split}; this is not the published zip")
    for names in ((*ROOMS, *SHARED), (split,), ("ARAS400k",)):
        if found := [at for at, part in enumerate(parts[:-1]) if part in names]:
            parts = parts[found[0] + (names[0] not in ROOMS) :]
            break
    return PurePosixPath(*parts) if parts[0] in SHARED else PurePosixPath(split, *parts)


def places(archive: zipfile.ZipFile, split: str) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """Return the file entries of `archive` by their place in the dataset's folder.

    Raises:
        UserError: an entry is a link, leaves the folder, is encrypted, or shares its place with another.
    """
    found: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise UserError(f"the entry {entry.filename!r} is a link; the zip is not to be trusted")
        place = place_of_entry(entry.filename, split)
        if entry.is_dir() or place is None:
            continue
        if entry.flag_bits & 1:
            raise UserError(f"the entry {entry.filename!r} is encrypted; this is not the published zip")
        if place in found:
            raise UserError(f"two entries would become {place}; this is not the published zip")
        found[place] = entry
    return found


def unpack(archive: Path, data: Path, again: bool, make_bar: Callable[..., Any]) -> dict[PurePosixPath, int]:
    """Unpack the zip of a split into the dataset at `data`; return the bytes of its files by their place in there.

    Args:
        archive: the zip, `<split>.zip`.
        data: the dataset's folder.
        again: whether it was wholly unpacked before, so that sizes tell enough of what is there.
        make_bar: from total and initial bytes and a word to a progress bar, a context manager.

    Raises:
        UserError: it is no zip, or one not to be trusted, or the disk is too small, and nothing is unpacked; or an
            entry cannot be written under its name.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            found = places(opened, archive.stem)
            todo = {place: entry for place, entry in found.items() if not is_there(data / place, entry, again)}
            check_free({data: sum(e.file_size + BLOCK for e in todo.values())}, f"unpacking {archive.name}")
            total, left = (sum(entry.file_size for entry in entries.values()) for entries in (found, todo))
            with make_bar(total, total - left, archive.stem) as bar:
                for place, entry in todo.items():
                    _extract(opened, entry, data / place)
                    bar.update(entry.file_size)
    except (zipfile.BadZipFile, NotImplementedError, zlib.error, EOFError) as error:
        raise UserError(f"{archive} cannot be unpacked ({error}); delete it and run the same command again") from None
    except UserError as error:
        raise UserError(f"{archive}: {error}") from None
    except OSError as error:
        if error.errno not in UNNAMEABLE:
            raise
        raise UserError(f"{archive}: {str(error.filename)[:200]!r} cannot be written: {error.strerror}") from None
    if todo:
        os.sync()  # once for all, instead of once for each of 200,000 files
    return {place: entry.file_size for place, entry in found.items()}


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> None:
    """Write `entry` to `path`; its CRC is checked before the file gets its name."""
    with whole_file(path, durable=False) as part, archive.open(entry) as source, part.open("wb") as target:
        shutil.copyfileobj(source, target, CHUNK)


def is_there(path: Path, entry: zipfile.ZipInfo, trusted: bool) -> bool:
    """Return whether `path` holds what `entry` does: by size, and unless `trusted` by CRC too."""
    if not path.is_file() or path.stat().st_size != entry.file_size:
        return False
    return trusted or zlib.crc32(path.read_bytes()) == entry.CRC


def write_listing(data: Path, split: str, entries: dict[PurePosixPath, int]) -> None:
    """Write down what the zip of `split` held, so that it can be deleted and the files still be checked."""
    with whole_file(listing_path(data, split)) as part, part.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("file", "bytes"), *entries.items()])


def first_lost(data: Path, split: str) -> str | None:
    """Return the first file of the zip of `split` that is not in place with its size; None when all are."""
    path = listing_path(data, split)
    if not path.exists():
        return str(path)
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            place = data / row["file"]
            if not row["file"].startswith(SHARED) and not (
                place.is_file() and str(place.stat().st_size) == row["bytes"]
            ):
                return row["file"]
    return None


def listing_path(data: Path, split: str) -> Path:
    """Return where it is written down what the zip of `split` held."""
    return data / f"published_{split}.csv"
