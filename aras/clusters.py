"""The workers of a running Dask scheduler or Ray cluster, by the futures and tasks of their own.

joblib's backends for both are not used: docs/decisions/0017-engines.md.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from aras.errors import UserError

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT = 5.0  # seconds until a cluster that does not answer is told
LOOK_AGAIN = 5.0  # seconds between looks at how many workers there are
WITHOUT_WORKERS = 120.0  # seconds without any after which the run ends
AHEAD = 2  # items at hand for each item being worked on, so that no worker waits for the next
AT_LEAST = 16  # items at hand, for clusters that grow with what is asked of them
TRIES = 3  # again, after the worker was lost; Dask's own number too

Call = Callable[..., Any]
Jobs = Iterable[tuple[Any, ...]]


class Room:
    """How many items may be at a cluster at a time: a few for each worker, as workers come and go."""

    def __init__(self, count: Callable[[], int], remedy: str):
        """Take what counts the items that can be worked on at a time, and what to do when it stays 0."""
        self.count, self.remedy = count, remedy
        self.slots, self.looked = count(), time.monotonic()
        self.seen = self.looked

    def beside(self, at_hand: int) -> int:
        """Return how many more items may go there beside those `at_hand`.

        Raises:
            UserError: there have been no workers for minutes.
        """
        now = time.monotonic()
        if now - self.looked > LOOK_AGAIN:
            self.slots, self.looked = self.count(), now
        if self.slots:
            self.seen = now
        elif now - self.seen > WITHOUT_WORKERS:
            raise UserError(f"{self.remedy}, then run the same command again")
        return max(0, max(AT_LEAST, AHEAD * self.slots) - at_hand)


def each_on_dask(address: str, call: Call, jobs: Jobs) -> Generator[Any, None, None]:
    """Yield `call(*job)` of all `jobs`, in whatever order the workers of the Dask scheduler at `address` do them.

    Raises:
        UserError: see `aras.engines.each_unordered`.
    """
    with dask_client(address) as client:
        from distributed.client import FutureCancelledError
        from distributed.scheduler import KilledWorker

        remedy = f"the Dask scheduler at {address} has no workers; start some by `dask worker {address}`"
        room, left = Room(lambda: sum(client.nthreads().values()), remedy), iter(jobs)
        at_hand: set[Future] = set()
        ready: SimpleQueue[Future] = SimpleQueue()
        while True:
            for job in islice(left, room.beside(len(at_hand))):
                future = client.submit(call, *job, pure=False)
                at_hand.add(future)
                future.add_done_callback(ready.put)
            if not at_hand:
                return
            done = taken(ready)
            at_hand.difference_update(done)
            try:
                yield from client.gather(done)
            except KilledWorker:
                raise lost_workers() from None
            except FutureCancelledError:
                raise lost_scheduler(address) from None


def taken(ready: "SimpleQueue[Future]") -> "list[Future]":
    """Return all futures that are `ready`; none after `LOOK_AGAIN` seconds without one."""
    found = []
    try:
        found.append(ready.get(timeout=LOOK_AGAIN))
        while True:
            found.append(ready.get_nowait())
    except Empty:
        return found


@contextmanager
def dask_client(address: str) -> "Iterator[Client]":
    """Yield a client of the Dask scheduler at `address`; leaving withdraws all that it asked for.

    Raises:
        UserError: the scheduler cannot be reached, is lost meanwhile, or has workers with another Python.
    """
    import dask

    dask.config.set({"logging": {"distributed": "critical", "distributed.client": "critical"}})  # we tell of it
    from distributed import Client
    from distributed.comm.core import CommClosedError

    try:
        client = Client(address, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"no Dask scheduler answers at {address} ({one_line(error)}); start one by `dask scheduler`, or check"
            " --scheduler"
        ) from None
    try:
        check_python(client)
        yield client
    except CommClosedError:
        raise lost_scheduler(address) from None
    finally:
        client.close(timeout=CONNECT)


def check_python(client: "Client") -> None:
    """Raise `UserError` if a worker has another Python than this process: it could not read what it is sent."""
    versions: Any = client.get_versions()
    here = versions["client"]["host"]["python"].split(".")[:2]
    for where, told in {"the scheduler": versions["scheduler"], **versions["workers"]}.items():
        python = told["host"]["python"]
        if python.split(".")[:2] != here:
            raise UserError(f"{where} has Python {python}; start it with Python {'.'.join(here)}, as here")


def each_on_ray(address: str, call: Call, jobs: Jobs) -> Generator[Any, None, None]:
    """Yield `call(*job)` of all `jobs`, in whatever order the nodes of the Ray cluster at `address` do them.

    Raises:
        UserError: see `aras.engines.each_unordered`.
    """
    with ray_connected(address) as ray:
        lost = (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError)
        task = ray.remote(num_cpus=1, max_retries=TRIES)(call)
        remedy = f"the Ray cluster at {address} has no processors; start nodes by `ray start --address`"
        room, left = Room(lambda: int(ray.cluster_resources().get("CPU", 0)), remedy), iter(jobs)
        at_hand: list[Any] = []
        while True:
            at_hand += [task.remote(*job) for job in islice(left, room.beside(len(at_hand)))]
            if not at_hand:
                return
            first, _ = ray.wait(at_hand, num_returns=1, timeout=LOOK_AGAIN)
            if first:
                done, at_hand = ray.wait(at_hand, num_returns=len(at_hand), timeout=0)
                try:
                    yield from ray.get(done)
                except lost:
                    raise lost_workers() from None


@contextmanager
def ray_connected(address: str) -> Iterator[Any]:
    """Yield the module `ray`, connected to the cluster at `address`; leaving withdraws all that it was asked for.

    Raises:
        UserError: the cluster cannot be reached, or has another Ray or Python.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    check_reachable(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"Ray at {address} cannot be used ({one_line(error)}); run this on one of its nodes, with the Ray of"
            " requirements-cluster.txt, or check --address"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def check_reachable(address: str) -> None:
    """Raise `UserError` if nothing listens at `address`, host:port; Ray itself takes minutes to find out."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT).close()
    except OSError as error:
        raise UserError(
            f"no Ray answers at {address} ({error.strerror or error}); start it by `ray start --head`, or check"
            " --address"
        ) from None


def lost_workers() -> UserError:
    """Return the error for an item that no worker survives."""
    return UserError(
        "workers were lost again and again over the same item, likely out of memory; give each more memory, then run"
        " the same command again"
    )


def lost_scheduler(address: str) -> UserError:
    """Return the error for a scheduler that has gone, or has dropped what it was asked for."""
    return UserError(f"the Dask scheduler at {address} was lost; start it again, then run the same command again")


def one_line(error: Exception) -> str:
    """Return the text of `error` without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
