"""What is to be fetched and what has become of it: jobs, their tables, and the room that they need on the disk."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from aras.downloading.download import held_bytes
from aras.errors import UserError

AnyJob = TypeVar("AnyJob", bound="Job")
WANTED, PRESENT, MISSING, DONE, FAILED = "wanted", "present", "missing", "done", "failed"
COLUMNS = (DONE, PRESENT, MISSING, FAILED)


@dataclass
class Job(ABC):
    """A file to have, and what has become of it. Subclasses know how to `check` it.

    Attributes:
        name: what tables call it.
        group: the row of the final table in which it counts.
        path: where it goes.
        url: where it is; empty until that is known.
        promised: bytes by a catalogue; None without one.
        size: bytes, once known.
        usual_size: bytes to reckon with until then.
        optional: whether it is missing, rather than failed, when the server has no such file.
        state: wanted; then present, missing, done or failed.
        reason: why it failed.
    """

    name: str
    group: str
    path: Path
    url: str = field(default="", repr=False)  # it may be signed
    promised: int | None = None
    size: int | None = None
    usual_size: int = 0
    optional: bool = False
    state: str = WANTED
    reason: str = ""

    @property
    def expected(self) -> int:
        """Bytes that it has, or is reckoned to have."""
        return self.usual_size if self.size is None else self.size

    @property
    def bytes_to_fetch(self) -> int:
        """Bytes still to come."""
        return max(0, self.expected - held_bytes(self.path))

    @abstractmethod
    def check(self, path: Path) -> None:
        """Raise `Damaged` unless the file at `path` is this job's, and sound."""

    def fail(self, reason: str) -> None:
        """Note that it failed, and why."""
        self.state, self.reason = FAILED, reason


def still_wanted(jobs: Iterable[AnyJob]) -> list[AnyJob]:
    """Return the jobs that are still to be done."""
    return [job for job in jobs if job.state == WANTED]


def bytes_to_fetch(jobs: Iterable[Job]) -> int:
    """Return the bytes still to come of all `jobs` together."""
    return sum(job.bytes_to_fetch for job in still_wanted(jobs))


def plan_lines(jobs: Sequence[Job]) -> Iterator[str]:
    """Yield what there is to do, as text: a line for each group, and one for each disk."""
    for group in dict.fromkeys(job.group for job in jobs):
        own = [job for job in jobs if job.group == group]
        todo, states = [job for job in still_wanted(own) if job.size != 0], Counter(job.state for job in own)
        about = "about " if any(job.size is None for job in todo) else ""
        yield (
            f"{group}: {len(own)} files in {own[0].path.parent}: {states[PRESENT]} present, "
            f"{len(own) - len(todo) - states[PRESENT] - states[FAILED]} that the server does not have, "
            f"{len(todo)} to fetch ({about}{bytes_to_fetch(own) / 1e9:,.3f} GB)"
        )
    for folder, needed in by_disk(room_for_downloads(jobs)).items():
        free = free_bytes(folder)
        yield f"{needed / 1e9:,.3f} GB to fetch, {free / 1e9:,.3f} GB free on the disk of {folder.absolute()}"


def table_lines(jobs: Sequence[Job]) -> Iterator[str]:
    """Yield the table of what became of `jobs`, as text; a run that was cut short has a column of unfinished ones."""
    columns = (*COLUMNS, WANTED) if still_wanted(jobs) else COLUMNS
    yield f"{'':8}" + "".join(f"{'unfinished' if state == WANTED else state:>12}" for state in columns)
    for group in dict.fromkeys(job.group for job in jobs):
        states = Counter(job.state for job in jobs if job.group == group)
        yield f"{group:8}" + "".join(f"{states[state]:12}" for state in columns)


def check_none_failed(jobs: Sequence[Job]) -> None:
    """Raise `UserError`, with the first reason, if any of `jobs` failed or is unfinished."""
    failed, unfinished = [job for job in jobs if job.state == FAILED], len(still_wanted(jobs))
    if failed:
        raise UserError(
            f"{len(failed)} of {len(jobs)} failed, such as {failed[0].name}: {failed[0].reason}. failures.csv lists "
            "them; run the same command again to try them again"
        )
    if unfinished:
        raise UserError(f"{unfinished} of {len(jobs)} are unfinished; run the same command again")


def room_for_downloads(jobs: Iterable[Job]) -> dict[Path, int]:
    """Return {folder: bytes still to come into it}; each of the folders may be on a disk of its own."""
    room: Counter[Path] = Counter()
    for job in jobs:
        room[job.path.parent] += job.bytes_to_fetch if job.state == WANTED else 0
    return room


def check_free(room: dict[Path, int], purpose: str) -> None:
    """Raise `UserError` unless the disks of the folders in `room`, {folder: bytes}, have as many bytes free."""
    for folder, needed in by_disk(room).items():
        free = free_bytes(folder)
        if needed > free:
            raise UserError(
                f"{purpose} needs {needed / 1e9:,.2f} GB, the disk of {folder} has {free / 1e9:,.2f} GB free; "
                "free some, or name another disk with --outdir"
            )


def by_disk(room: dict[Path, int]) -> dict[Path, int]:
    """Return `room`, {folder: bytes}, with the folders that share a disk under the first of them."""
    first: dict[int, Path] = {}
    total: Counter[Path] = Counter()
    for folder, needed in room.items():
        total[first.setdefault(existing(folder).stat().st_dev, folder)] += needed
    return total


def existing(folder: Path) -> Path:
    """Return `folder`, or where it will be made: the nearest folder above that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def free_bytes(folder: Path) -> int:
    """Return the bytes free on the disk that `folder` is or will be on."""
    return shutil.disk_usage(existing(folder)).free
