"""What the published zips hold: unpacked into ARAS400k's folders, and the class percentages that they lack.

A zip is not trusted to stay in its folder: absolute paths, `..`, drives and links are refused before any is written.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from aras.downloading.jobs import PRESENT, check_free
from aras.downloading.notes import read_notes, update_notes
from aras.downloading.zenodo import State, ZipJob, md5_of
from aras.errors import UserError
from aras.files import whole_file

CHUNK = 1 << 20  # bytes
BLOCK = 4096  # bytes that a file takes at least on disk
ROOMS = ("images", "masks", "generated")
SHARED = ("class_percentages", "captions")
LITTER = ("__MACOSX", ".DS_Store", "Thumbs.db")
FAILURES = "failures.csv"
FEW = 512  # masks that are counted sooner than worker processes start


def put_in_place(job: ZipJob, state: State, data: Path, make_bar: Callable[..., Any]) -> None:
    """Unpack a zip that has its MD5 into the dataset at `data`, and write the class percentages that it lacks.

    What cannot be done is noted on `job`. `make_bar` is as in `unpack`.
    """
    split = job.path.stem
    state.set_verified(job.path, job.md5)
    try:
        again = bool(state.unpacked(job.name, job.md5))
        state.set_unpacked(job.name, unpack(job.path, data, again, make_bar))
        if lacks_percentages(data, split) and (bad := write_percentages(data, split)):
            job.fail(f"{bad} masks of {split} cannot be read, see {data / FAILURES}")
    except UserError as error:
        job.fail(str(error))


def mark_present(job: ZipJob, state: State, data: Path, make_bar: Callable[..., Any] | None) -> None:
    """Mark the zip as present if it is there with its MD5, or was unpacked and then deleted to save space.

    Without `make_bar` (see `unpack`) a zip that was never checked is taken to be right.
    """
    if not job.path.exists():
        count = state.unpacked(job.name, job.md5)
        if count and files_below(data / job.path.stem) >= count:
            job.state = PRESENT
    elif make_bar is None or state.verified(job.path, job.md5):
        job.state = PRESENT
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
    """
    parts = safe_parts(name)
    if not parts or any(part in LITTER for part in parts):
        return None
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


def unpack(archive: Path, data: Path, again: bool, make_bar: Callable[..., Any]) -> int:
    """Unpack the zip of a split into the dataset at `data`; return how many of its files are in the split's folder.

    Args:
        archive: the zip, `<split>.zip`.
        data: the dataset's folder.
        again: whether it was wholly unpacked before, so that sizes tell enough of what is there.
        make_bar: from total and initial bytes and a word to a progress bar, a context manager.

    Raises:
        UserError: it is no zip, or one not to be trusted, or the disk is too small. Nothing is unpacked then.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            found = places(opened, archive.stem)
            todo = {place: entry for place, entry in found.items() if not is_there(data / place, entry, again)}
            check_free(sum(e.file_size + BLOCK for e in todo.values()), data, f"unpacking {archive.name}")
            total, left = (sum(entry.file_size for entry in entries.values()) for entries in (found, todo))
            with make_bar(total, total - left, archive.stem) as bar:
                for place, entry in todo.items():
                    _extract(opened, entry, data / place)
                    bar.update(entry.file_size)
    except (zipfile.BadZipFile, NotImplementedError, zlib.error, EOFError) as error:
        raise UserError(f"{archive} cannot be unpacked ({error}); delete it and run the same command again") from None
    except UserError as error:
        raise UserError(f"{archive}: {error}") from None
    if todo:
        os.sync()  # once for all, instead of once for each of 200,000 files
    return sum(place.parts[0] == archive.stem for place in found)


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> None:
    """Write `entry` to `path`; its CRC is checked before the file gets its name."""
    with whole_file(path, durable=False) as part, archive.open(entry) as source, part.open("wb") as target:
        shutil.copyfileobj(source, target, CHUNK)


def is_there(path: Path, entry: zipfile.ZipInfo, trusted: bool) -> bool:
    """Return whether `path` holds what `entry` does: by size, and unless `trusted` by CRC too."""
    if not path.is_file() or path.stat().st_size != entry.file_size:
        return False
    return trusted or zlib.crc32(path.read_bytes()) == entry.CRC


def files_below(folder: Path) -> int:
    """Return the number of files in `folder` and below."""
    return sum(len(names) for _, _, names in os.walk(folder))


def write_percentages(data: Path, split: str) -> int:
    """Write class_percentages/<split>.csv from the masks of `split`; return how many of them cannot be read.

    Those have no row; failures.csv of the dataset's folder says why.
    """
    from aras.legend import CLASS_NAMES

    masks = sorted((data / split / "masks").glob("*.png"))
    failed: dict[str, str] = {}
    with (
        whole_file(data / "class_percentages" / f"{split}.csv") as part,
        part.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("filename", *CLASS_NAMES))
        for mask, shares in zip(masks, _shares(masks), strict=True):
            if isinstance(shares, str):
                failed[f"{split}/masks/{mask.name}"] = shares
            else:
                table.writerow((mask.name, *shares))
        about = f"{split}/masks/"  # noted before the table gets its name, so that they cannot be forgotten
        update_notes(data / FAILURES, ("file", "reason"), failed, lambda name: name.startswith(about))
    return len(failed)


def lacks_percentages(data: Path, split: str) -> bool:
    """Return whether `split` has masks, and no table of percentages that covers them all."""
    if not (data / split / "masks").is_dir():
        return False
    failed = any(name.startswith(f"{split}/masks/") for name in read_notes(data / FAILURES))
    return failed or not (data / "class_percentages" / f"{split}.csv").exists()


def _shares(masks: list[Path]) -> Iterator[list[float] | str]:
    """Yield what `percentages_of_mask` returns for each of `masks`, on all cores when they are many."""
    if len(masks) < FEW:
        return map(percentages_of_mask, masks)
    from joblib import Parallel, delayed

    workers = Parallel(n_jobs=os.cpu_count(), batch_size=64, return_as="generator")
    return workers(delayed(percentages_of_mask)(mask) for mask in masks)


def percentages_of_mask(path: Path) -> list[float] | str:
    """Return the percentage of each class in the mask at `path`, or the reason why it cannot be read."""
    import numpy as np

    from aras.legend import NUM_CLASSES, class_percentages, read_mask

    try:
        labels = read_mask(path)
    except UserError as error:
        return str(error)
    return class_percentages(np.bincount(labels.ravel(), minlength=NUM_CLASSES))
