"""One training in many processes: who this one is, and the sums and decisions that all of them share.

The processes are those that torchrun started, on one node or many, or those that `run_in_processes` starts on this
machine. A process by itself has nobody to ask: its sums are its own and it is the first. Rank r of n computes on the
images r, r + n, r + 2n ... of each batch, so that what the ranks sum is what a single process would have summed.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, TypeVar

from stylegan_errors import StyleganError, message_of_os_error

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

FAILURES = "failures"  # the key in the processes' store that counts those that failed
PATIENCE = timedelta(hours=2)  # for the first rank, which alone reads every file of a dataset or writes to a slow disk
GRACE = 10  # seconds for the others to end by themselves after one has failed


@dataclass(frozen=True)
class Place:
    """One process of a training: its number, how many there are, and its number on its machine."""

    rank: int = 0
    world_size: int = 1
    local: int = 0


_here = Place()


def rank() -> int:
    """Return which of the processes that train together this is, from 0."""
    return _here.rank


def world_size() -> int:
    """Return how many processes train together."""
    return _here.world_size


def is_first() -> bool:
    """Return whether this is the process that writes and speaks."""
    return _here.rank == 0


def place_in_environment() -> Place:
    """Return the place that torchrun gave to this process; the only one where it gave none.

    Raises:
        StyleganError: the environment has a part of it alone, as a cluster's job may; or torchrun is to start again
            processes on many nodes which could not meet again.
    """
    told = os.environ
    if told.get("WORLD_SIZE", "1") == "1":
        return Place()
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in told]
    if missing:
        raise StyleganError(
            f"WORLD_SIZE is {told['WORLD_SIZE']} in the environment, but {missing[0]} is not there; start by torchrun,"
            " or unset WORLD_SIZE"
        )
    old_store = told.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if old_store and _nodes() > 1 and told.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        raise StyleganError(
            "with --max-restarts on several nodes, start torchrun with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the"
            " environment of each: otherwise processes that start again could not meet"
        )
    return Place(int(told["RANK"]), int(told["WORLD_SIZE"]), int(told.get("LOCAL_RANK", 0)))


def _nodes() -> int:
    """Return how many nodes torchrun runs on."""
    return int(os.environ.get("GROUP_WORLD_SIZE", "1"))


def _restarts() -> str:
    """Return how often torchrun has started the processes again, where all count the same: on one node."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "") if _nodes() == 1 else ""


def share_cores() -> None:
    """Have PyTorch's idle threads sleep after a moment's spinning; call it before torch is first imported.

    Long spinning costs most of the speed on a busy machine, where the thread that is waited for has lost its core to a
    reader of images or to another program.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def is_first_in_environment() -> bool:
    """Return whether this is the process that speaks, before the processes of torchrun have joined."""
    return place_in_environment().rank == 0


def run_in_processes(function: Callable[..., None], arguments: tuple[Any, ...], count: int) -> None:
    """Run `function(*arguments)`, where `rank()` tells them apart, in `count` processes that train together.

    `function` must be importable. Processes that torchrun started are the ones; else this machine starts them.

    Raises:
        StyleganError: one of them failed; or torchrun started another number.
    """
    started = place_in_environment().world_size
    if started > 1 and started != count:
        raise StyleganError(f"--gpus is {count}, but torchrun started {started} processes; make them equal")
    if started > 1 or count == 1:
        with process_group():
            function(*arguments)
        return
    import torch.multiprocessing
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # outlives any rank
    context = torch.multiprocessing.get_context("spawn")
    told = context.SimpleQueue()
    processes = [
        context.Process(target=_run_rank, args=(Place(r, count, r), store.port, os.getpid(), told, function, arguments))
        for r in range(count)
    ]
    for process in processes:
        process.start()
    try:
        failed = _first_failure(processes)
    finally:
        for process in processes:
            process.terminate()
            process.join()
    if failed is not None:
        raise StyleganError(told.get() if not told.empty() else _lost(failed, processes[failed].exitcode))


def _first_failure(processes: list[Any]) -> int | None:
    """Return the rank that failed first, the others having had a moment to end, or None when all went well."""
    running = {process.sentinel: rank for rank, process in enumerate(processes)}
    while running:
        for sentinel in wait(list(running)):
            number = running.pop(sentinel)
            processes[number].join()
            if processes[number].exitcode:
                deadline = time.monotonic() + GRACE
                for process in processes:
                    process.join(max(deadline - time.monotonic(), 0))
                return number
    return None


def _lost(number: int, code: int | None) -> str:
    ended = f"by signal {-code}" if code and code < 0 else f"with code {code}"
    return f"process {number} of the training ended {ended}; see what it said, then run the same command again"


def _run_rank(
    place: Place, port: int, parent: int, told: Any, function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    """Be the process at `place`, ending with the one that started it; put the line with which it fails into `told`."""
    os.environ |= {
        "RANK": str(place.rank),
        "WORLD_SIZE": str(place.world_size),
        "LOCAL_RANK": str(place.local),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is there already
    }
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        with process_group():
            function(*arguments)
    except StyleganError as error:
        told.put(error.message)
        raise SystemExit(1) from None
    except OSError as error:
        told.put(message_of_os_error(error))
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes of the environment, while the body runs; a process alone joins nobody.

    Gloo carries what is on the CPU, NCCL what is on a GPU. Of many processes that fail, for one reason or because
    another has left, one raises its error; the others end with code 1 and no word.
    """
    global _here
    place = place_in_environment()
    if place.world_size == 1:
        yield
        return
    import torch
    import torch.distributed as dist
    import torch.distributed.nn  # first imported later, it would keep the group, whose threads can abort its end

    store, _, _ = next(iter(dist.rendezvous("env://")))
    store = dist.PrefixStore(f"restart {_restarts()}", store)  # torchrun keeps what those before have written in it
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.world_size, timeout=PATIENCE)
    _here = place
    try:
        yield
        add_up(torch.zeros(1))  # none leaves while another still needs its answer
        dist.destroy_process_group()
    except (StyleganError, OSError, RuntimeError) as error:
        if _failures_before(store):
            raise SystemExit(1) from None
        if _is_lost_connection(error):
            raise StyleganError(
                "another process of this training was lost; see what ended it, then run the same command again"
            ) from None
        raise
    finally:
        _here = Place()


def _failures_before(store: Any) -> bool:
    """Return whether another process has failed before this one."""
    import torch.distributed as dist

    try:
        return bool(store.add(FAILURES, 1) > 1)
    except dist.DistError:  # the process that kept the store is gone
        return False


def _is_lost_connection(error: Exception) -> bool:
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or "gloo" in str(error).lower() or "by peer" in str(error)


def choose_device(name: str, processes: int = 1) -> "torch.device":
    """Return the device of this process for `--device` `name` (auto, cuda or cpu), one of as many GPUs as processes.

    Raises:
        StyleganError: there are too few GPUs.
    """
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and processes == 1 and not there):
        return torch.device("cpu")
    if not there:
        asked = f"--gpus {processes}" if name == "auto" else "--device cuda"
        raise StyleganError(f"{asked}: PyTorch finds no CUDA GPU here; use --gpus 1, or --device cpu")
    local = place_in_environment().local
    on_this_machine = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    if max(local + 1, on_this_machine) > there:
        raise StyleganError(f"--gpus {processes}: there are {there} GPUs here; ask for at most {there} of them")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def from_first(make: Callable[[], T]) -> T:
    """Return to every process what `make` returns in the first, the only one that calls it."""
    if _here.world_size == 1:
        return make()
    import torch.distributed as dist

    box: list[Any] = [make() if is_first() else None]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def add_up(*tensors: "torch.Tensor") -> None:
    """Make each of `tensors` the sum of every rank's, in place."""
    if _here.world_size > 1:
        import torch.distributed as dist

        for tensor in tensors:
            dist.all_reduce(tensor)


def copy_from_first(*tensors: "torch.Tensor") -> None:
    """Make each of `tensors` the first rank's, in place."""
    if _here.world_size > 1:
        import torch.distributed as dist

        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def in_any(happened: bool) -> bool:
    """Return whether it `happened` in any rank. The hosts wait for each other, their GPUs do not."""
    if _here.world_size == 1:
        return happened
    import torch

    count = torch.tensor(float(happened))
    add_up(count)
    return bool(count > 0)


def share(batch: "torch.Tensor") -> "torch.Tensor":
    """Return this rank's part of a whole batch."""
    return batch[_here.rank :: _here.world_size]
