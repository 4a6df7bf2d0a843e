"""Whose turn it is to write: workers that outlive the run that sent them, as a cluster's may, write nothing more.

A run puts a token of its own into a file of its output and gives the same to its workers (a fencing token: Kleppmann,
Designing Data-Intensive Applications, 2017, section 8.4). Workers compare the two under a shared lock, which they hold
while they write. The next run changes the token, then waits for an exclusive lock: whoever wrote has ended, and whoever
comes later finds another token.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from aras.errors import UserError

PATIENCE = 600.0  # seconds that workers of an earlier run may take to end what they write
LOOK_AGAIN = 0.05  # seconds


@dataclass(frozen=True)
class Fence:
    """Leave to write for the workers of one run.

    Attributes:
        path: the file with the token of the run whose turn it is.
        token: that of this run.
        parent: the process whose children the workers are; None for workers of a cluster.
    """

    path: Path
    token: str
    parent: int | None = None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep the next run from writing while the body does.

        Raises:
            UserError: it is another run's turn.
        """
        self.end_if_orphaned()
        with self.path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            if file.read() != self.token:
                raise UserError(f"another run writes to {self.path.parent.parent} by now; let it end, or stop it first")
            yield

    def end_if_orphaned(self) -> None:
        """End this worker at once if its parent is gone, with which the output's lock has gone too."""
        if self.parent is not None and self.parent not in (os.getpid(), os.getppid()):
            os._exit(1)


def new_fence(folder: Path, parent: int | None = None) -> Fence:
    """Return the fence in `folder` of a run that begins, once no worker of an earlier one writes any more.

    Raises:
        UserError: one does for minutes.
    """
    fence = Fence(folder / "writer", uuid4().hex, parent)
    folder.mkdir(parents=True, exist_ok=True)
    with fence.path.open("r+" if fence.path.exists() else "w") as file:
        file.write(fence.token)
        file.truncate()
        file.flush()
        until = time.monotonic() + PATIENCE
        while not locked(file.fileno()):
            if time.monotonic() > until:
                raise UserError(f"workers of an earlier run still write to {folder.parent}; stop them first")
            time.sleep(LOOK_AGAIN)
    return fence


def locked(file: int) -> bool:
    """Return whether nobody else has a lock on `file`, and take it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
