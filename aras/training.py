"""What every training script needs around its loop: a device, seeds, metrics.jsonl."""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aras.errors import UserError
from aras.files import write_text

if TYPE_CHECKING:
    import torch


def share_cores() -> None:
    """Have PyTorch's idle threads sleep after a moment's spinning; call it before torch is first imported.

    Long spinning costs most of the speed on a busy machine, where the thread waited for has lost its core to a worker
    or to another program: 3.5 against 35 images/s of training on 2 busy cores. Sleeping at once costs a wake-up for
    each of the many short operations: a training step of 0.24 s on 2 idle cores takes 0.18 s with this moment, and
    0.39 s rather than 0.35 s beside another busy process.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def choose_device(name: str) -> "torch.device":
    """Return the device for `--device` `name`: auto, cuda or cpu.

    Raises:
        UserError: cuda was asked for and there is none.
    """
    import torch

    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UserError("--device cuda: PyTorch finds no CUDA GPU here; use --device auto or cpu")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def told_device(device: "torch.device") -> str:
    """Return the device in words, for run.json."""
    import torch

    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "cpu"


@contextmanager
def memory_told(remedy: str) -> Iterator[None]:
    """Turn running out of GPU memory into a `UserError` that ends with `remedy`."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(f"the GPU ran out of memory ({str(error).split('. ')[0]}); {remedy}") from None


@contextmanager
def workers_told() -> Iterator[None]:
    """Turn the loss of a process that reads images into a `UserError`; PyTorch raises it wherever the body then is."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise UserError(
            f"a process that reads images was lost ({' '.join(str(error).split())[:200]}); lower --workers or free"
            " memory (in a container also /dev/shm: docker run --shm-size), then run the same command again"
        ) from None


@contextmanager
def compiling_told(model: str) -> Iterator[None]:
    """Turn a `model` that torch.compile cannot translate here into a `UserError`."""
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"--compile: {model} cannot be compiled here ({reason[:200]}); leave --compile out") from None


def mixed_seed(*numbers: int) -> int:
    """Return a seed (64 bits) that depends on every one of `numbers`, such as (seed, epoch, step)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def reachable(url: str, seconds: float = 5) -> bool:
    """Return whether the server of `url` answers at all; proxies follow the environment."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):  # no name, no route, no certificate, no answer; or not a URL
        return False


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the values of a JSON-lines file, none if it is absent, without lines that a killed process left torn."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Append `value` as one line of JSON to `path`.

    Raises:
        ValueError: a number is not finite, which JSON cannot say.
    """
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())  # so that a power cut leaves no last.pt that is ahead of it


def keep_epochs(path: Path, last: int, count: str = "epoch") -> None:
    """Leave in `path` (metrics.jsonl) one line for each epoch up to `last`, so that those done again do not double.

    `count` is the name of the number that counts them, where it is not epochs that the lines are of.
    """
    if path.exists():
        lines = {value[count]: value for value in read_lines(path) if value.get(count, last + 1) <= last}
        write_text(path, "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in lines.values()))
