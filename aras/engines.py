"""Where a stage works: in processes of this machine, or on a Dask or Ray cluster; what comes out is the same.

The engines hold only a bounded number of items at a time, so that memory does not grow with the number of items. Work
goes to a cluster's workers as its name, so they need this code, its packages and the disk that it reads and writes:
docs/scaling.md says how. What each engine was found to do, and why joblib's own Dask and Ray backends are not used:
docs/decisions/0017-engines.md.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import click

from aras.errors import UserError

T = TypeVar("T")
R = TypeVar("R")

ENGINES = ("local", "dask", "ray")
INSTALL = "pip install -r requirements-cluster.txt"


@dataclass(frozen=True)
class Engine:
    """Where work is done: `name` is one of `ENGINES`, `address` that of the Dask scheduler or of the Ray cluster."""

    name: str = "local"
    address: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether the work is done by children of this process."""
        return self.name == "local"


def engine_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the click command `function` with --engine, --scheduler and --address, to be read by `engine_of`."""
    options = (
        click.option(
            "--engine",
            type=click.Choice(ENGINES),
            default="local",
            show_default=True,
            help=f"Where to work: --workers processes here, or a cluster's workers ({INSTALL}).",
        ),
        click.option("--scheduler", metavar="ADDRESS", help="Of --engine dask, such as tcp://node1:8786."),
        click.option("--address", metavar="ADDRESS", help="Of --engine ray, such as node1:6379.  [default: auto]"),
    )
    for option in reversed(options):
        function = option(function)
    return function


def engine_of(options: dict[str, Any]) -> Engine:
    """Return the engine that the values of `engine_options` in `options` ask for; `options` stays as it is.

    Raises:
        click.UsageError: an address without its engine, or Dask without an address.
    """
    name, scheduler, address = (options[option] for option in ("engine", "scheduler", "address"))
    if scheduler and name != "dask":
        raise click.UsageError("--scheduler is Dask's; add --engine dask, or leave it out")
    if address and name != "ray":
        raise click.UsageError("--address is Ray's; add --engine ray, or leave it out")
    if name == "dask" and not scheduler:
        raise click.UsageError("--engine dask needs --scheduler ADDRESS, which `dask scheduler` prints")
    return Engine(name, scheduler if name == "dask" else (address or "auto") if name == "ray" else None)


def each_unordered(
    engine: Engine, work: Callable[[T], R], items: Sequence[T], workers: int, sees: Sequence[Path] = ()
) -> Generator[R, None, None]:
    """Yield `work(item)` of all `items`, in whatever order they are done.

    What a lost worker of a cluster was doing is done again by another, so that two may do the same item at a time.
    Leaving the loop or Ctrl-C withdraws what has not begun.

    Args:
        engine: where to work.
        work: a function at the top of a module of `aras`, or a partial of one; its paths must be absolute.
        items: what to work on; picklable.
        workers: processes of the local engine; a cluster has its own number.
        sees: files and folders that every worker must find under the same name.

    Raises:
        UserError: a local worker was killed; the cluster cannot be reached, was lost, has no workers, or workers
            without this code, its packages or the files of `sees`. What `work` raises is raised here.
    """
    if not items:
        return
    if engine.is_local:
        yield from each_here(work, items, workers)
    else:
        yield from each_on_cluster(engine, work, items, sees)


def each_here(work: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[R]:
    """Yield `work(item)` of all `items`, done by `workers` child processes.

    Raises:
        UserError: one was killed.
    """
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    done = Parallel(n_jobs=workers, return_as="generator_unordered")(delayed(work)(item) for item in items)
    try:
        yield from done
    except TerminatedWorkerError:
        raise UserError(
            "a worker was killed, likely out of memory; run the same command with fewer --workers"
        ) from None


def each_on_cluster(engine: Engine, work: Callable[[T], R], items: Sequence[T], sees: Sequence[Path]) -> Iterator[R]:
    """Yield `work(item)` of all `items`, done by workers of a cluster that see the files of `sees`.

    Raises:
        UserError: see `each_unordered`.
    """
    package = {"dask": "distributed", "ray": "ray"}[engine.name]
    if find_spec(package) is None:
        raise UserError(f"--engine {engine.name} needs the package {package}; {INSTALL}")
    from aras.clusters import each_on_dask, each_on_ray
    from aras.remote import payloads, result_of, worker_call

    each_of = {"dask": each_on_dask, "ray": each_on_ray}[engine.name]
    with closing(each_of(str(engine.address), worker_call(), payloads(work, items, sees))) as outcomes:
        yield from map(result_of, outcomes)
