"""The processes of one job, as torchrun starts them: which one this is, and how they wait for each other by files.

Nothing is sent between them, so no process group is needed: the first one gets the output ready and starts the others,
each does its share, and the first one puts the shares together when all have ended.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aras.errors import UserError
from aras.files import sole_writer, write_text

if TYPE_CHECKING:
    import torch

STARTED, ENDED = "started", "ended"
LOOK_AGAIN = 0.1  # seconds


@dataclass(frozen=True)
class Rank:
    """One process of a job.

    Attributes:
        number: 0 is the first one, which leads.
        count: how many the job has.
        local: its number on its machine, and that of its GPU.
        job: tells this start of the job from any other.
    """

    number: int = 0
    count: int = 1
    local: int = 0
    job: str = ""

    @property
    def leads(self) -> bool:
        """Whether it gets the output ready and puts the shares together."""
        return self.number == 0

    @property
    def name(self) -> str:
        """Its name in the folder of the job."""
        return f"rank{self.number}"


def rank_of_process() -> Rank:
    """Return which process this is, from what torchrun put into the environment; the only one without it.

    Raises:
        UserError: the environment has a part of it alone, as a cluster's job may; or torchrun is to start again
            processes on many nodes which could not meet again.
    """
    told = os.environ
    if told.get("WORLD_SIZE", "1") == "1":
        return Rank()
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in told]
    if missing:
        raise UserError(
            f"WORLD_SIZE is {told['WORLD_SIZE']} in the environment, but {missing[0]} is not there; start by torchrun,"
            " or unset WORLD_SIZE"
        )
    check_restarts()
    job = [told.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")] + [restarts()]
    if told.get("LOCAL_WORLD_SIZE") == told["WORLD_SIZE"]:  # on one machine, where all have one parent
        job.append(str(os.getppid()))
    return Rank(int(told["RANK"]), int(told["WORLD_SIZE"]), int(told.get("LOCAL_RANK", 0)), " ".join(job))


def restarts() -> str:
    """Return how often torchrun has started the processes again, where all count the same: on one node."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "") if nodes() == 1 else ""


def nodes() -> int:
    """Return how many nodes torchrun runs on."""
    return int(os.environ.get("GROUP_WORLD_SIZE", "1"))


def check_restarts() -> None:
    """Raise `UserError` if torchrun may start again what is on many nodes, with the old store of the processes.

    By default its agents keep one store, in which processes that start again read the addresses of those before them,
    and a node that comes back waits for an address that nobody writes a second time (seen with PyTorch 2.15).
    """
    told = os.environ
    old_store = told.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if old_store and nodes() > 1 and told.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        raise UserError(
            "with --max-restarts on several nodes, start torchrun with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the"
            " environment of each: otherwise processes that start again could not meet"
        )


def device_of(rank: Rank, device: "torch.device") -> "torch.device":
    """Return the GPU of `rank` where `device` is a GPU, and make it the one that it computes on.

    Raises:
        UserError: the machine has fewer GPUs than processes.
    """
    import torch

    if device.type != "cuda" or rank.count == 1:
        return device
    there = torch.cuda.device_count()
    if rank.local >= there:
        raise UserError(
            f"there are {there} GPUs for more processes; start {there} by torchrun --nproc-per-node {there}"
        )
    torch.cuda.set_device(rank.local)
    return torch.device("cuda", rank.local)


def check_alone(folder: Path) -> None:
    """Raise `UserError` while a process of an earlier job, whose first one was killed, still does its share."""
    for lock in folder.glob(".rank*.lock"):
        name = lock.name.removeprefix(".").removesuffix(".lock")
        with sole_writer(folder / name, is_file=True):
            continue


def start_others(folder: Path, rank: Rank) -> None:
    """Let the other processes begin."""
    if rank.count > 1:
        write_text(folder / STARTED, rank.job)


def wait_for_start(folder: Path, rank: Rank) -> None:
    """Return when the first process has got the output ready."""
    started = folder / STARTED
    _wait_until(lambda: started.exists() and started.read_text() == rank.job)


def tell_end(folder: Path, rank: Rank) -> None:
    """Tell the first process that the share of `rank` is done."""
    write_text(folder / rank.name / ENDED, rank.job)


def wait_for_others(folder: Path, rank: Rank) -> None:
    """Return when every other process has done its share."""
    ends = [folder / f"rank{number}" / ENDED for number in range(1, rank.count)]
    _wait_until(lambda: all(end.exists() for end in ends))


def _wait_until(come: Callable[[], bool]) -> None:
    """Return when `come` says so; torchrun, which stops all when one fails, must be there meanwhile.

    Raises:
        UserError: this process outlived the one that started it.
    """
    parent = os.getppid()
    while not come():
        if os.getppid() != parent:
            raise UserError("torchrun has ended and left this process behind; run the same command again")
        time.sleep(LOOK_AGAIN)
