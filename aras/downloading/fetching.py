"""Many downloads at once: threads that end promptly, and one progress bar for all."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from aras.downloading.addresses import origin
from aras.downloading.download import discard, download, held_bytes
from aras.downloading.jobs import DONE, FAILED, MISSING, Job, still_wanted
from aras.downloading.origins import PARTIAL_CONTENT, Origin, range_total
from aras.downloading.web import Client
from aras.downloading.web_errors import FetchError, Missing, Transient, Unreachable
from aras.errors import UserError

T = TypeVar("T", bound=Job)
PARTING = 1.0  # s that threads get to end; one that waits for a silent server is left behind
MOST_GIVEN_UP = 8  # files in a row for which patience with one host ended, before its others are left for another run
FEW_TRIES = 3  # for a size, which one can do without


class Progress:
    """The bytes of many files on one bar, kept right when a file turns out smaller or starts anew."""

    def __init__(self, bar: Any, jobs: Iterable[Job]):
        """Make a progress on `bar` (tqdm's interface), whose total is what `jobs` are expected to have."""
        self.bar, self.lock = bar, threading.Lock()
        self.sizes = {job.path: job.expected for job in jobs}
        self.held = {path: held_bytes(path) for path in self.sizes}

    def at(self, path: Path, held: int, size: int | None = None) -> None:
        """Take note that `path` has `held` bytes, of `size` if that is known by now."""
        with self.lock:
            if size is not None:
                self.bar.total += size - self.sizes.get(path, 0)
                self.sizes[path] = size
            self.bar.update(held - self.held.get(path, 0))
            self.held[path] = held


def measure(client: Client, jobs: Iterable[Job], connections: int) -> None:
    """Set the size of the wanted `jobs` that have none; it stays None where the server does not say.

    Raises:
        Unreachable: not one of the hosts can be reached.
    """
    answered: set[tuple[Any, ...]] = set()
    dead: dict[tuple[Any, ...], Unreachable] = {}

    def one(job: Job) -> None:
        host = origin(job.url)
        if host in dead:
            return
        try:
            job.size = remote_size(client, job.url)
            answered.add(host)
        except Unreachable as error:
            dead[host] = error

    in_threads(one, [job for job in still_wanted(jobs) if job.size is None], connections, client.stop)
    if dead and not answered:
        raise next(iter(dead.values()))


def remote_size(client: Client, url: str) -> int | None:
    """Return the bytes at `url`: 0 when there is no such file, None when the server does not say.

    Some servers know no HEAD, or answer it without a length or with none; asked for its first byte, they tell.

    Raises:
        Unreachable: there is no connection to the host.
    """

    def by_head() -> int | None:
        with client.open("HEAD", url) as response:
            return Origin.of_response(url, response).size

    def by_range() -> int | None:
        with client.open("GET", url, headers={"Range": "bytes=0-0"}) as response:
            if response.status_code == PARTIAL_CONTENT:
                return range_total(response)
            return Origin.of_response(url, response).size if response.ok else None

    for attempt in (by_head, by_range):
        try:
            size = client.persistently(attempt, FEW_TRIES)
        except Missing:
            return 0
        except Unreachable:
            raise
        except FetchError:
            continue
        if size:
            return size
    return None


def fetch(client: Client, jobs: Sequence[Job], connections: int, make_bar: Callable[..., Any]) -> None:
    """Download the wanted `jobs` in parallel under one progress bar, and note on each what became of it.

    Args:
        client: asks the servers.
        jobs: those not wanted are left alone.
        connections: downloads at a time.
        make_bar: from total and initial bytes to a progress bar, a context manager.

    Raises:
        FetchError: a host does not serve any more; the files of the others have been fetched.
        UserError: the login or the disk failed, so that going on is of no use; what has come is kept.
    """
    todo = sorted(still_wanted(jobs), key=lambda job: job.size is None)  # first from the hosts that answer
    dead: dict[tuple[Any, ...], FetchError] = {}
    given_up: Counter[tuple[Any, ...]] = Counter()  # files of a host in a row
    if not todo:
        return

    def one(job: Job) -> None:
        host = origin(job.url)
        if host in dead:
            return
        try:
            download(client, job, progress.at)
            job.state = DONE
            dead.pop(host, None)
            given_up.pop(host, None)
        except Unreachable as error:
            dead[host] = error
        except FetchError as error:
            job.fail(str(error))
            if isinstance(error, Missing):
                discard(job.path)
                job.state = MISSING if job.optional else FAILED
            progress.at(job.path, 0, 0)
            given_up[host] += isinstance(error, Transient)
            if given_up[host] >= MOST_GIVEN_UP:
                dead[host] = error

    with make_bar(sum(job.expected for job in todo), sum(held_bytes(job.path) for job in todo)) as bar:
        progress = Progress(bar, todo)
        in_threads(one, todo, connections, client.stop)
    if dead:
        raise next(iter(dead.values()))


def in_threads(work: Callable[[T], None], items: Sequence[T], count: int, stop: threading.Event) -> None:
    """Do `work` on each of `items` in `count` threads; the first exception sets `stop`, and is raised here.

    The threads are daemons, so Ctrl-C ends the program even while a server keeps one of them waiting.
    """
    todo: queue.SimpleQueue[T] = queue.SimpleQueue()
    ended: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
    for item in items:
        todo.put(item)
    threads = [
        threading.Thread(target=_labour, args=(work, todo, ended, stop), daemon=True)
        for _ in range(min(count, len(items)))
    ]
    for thread in threads:
        thread.start()
    done = 0
    try:
        while done < len(items):
            error = ended.get()
            if error is not None:
                raise error
            done += 1
    finally:
        if done < len(items):
            stop.set()
        deadline = time.monotonic() + PARTING
        for thread in threads:
            thread.join(timeout=max(0, deadline - time.monotonic()))


def _labour(
    work: Callable[[T], None],
    todo: queue.SimpleQueue[T],
    ended: queue.SimpleQueue[Exception | None],
    stop: threading.Event,
) -> None:
    """Do `work` on what `todo` holds until it is empty; put what each ended with, None or an error, into `ended`."""
    while not stop.is_set():
        try:
            item = todo.get_nowait()
        except queue.Empty:
            return
        error: Exception | None = RuntimeError(f"a programming error, told above, ended the work on {item.name}")
        try:
            work(item)
            error = None
        except (UserError, OSError) as caught:
            error = caught
        finally:
            ended.put(error)
        if error is not None:
            return  # whoever waits for us is about to set `stop`
