"""Where a training tells of itself: stats.jsonl, log.txt, TensorBoard's events, Weights & Biases, the terminal."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stylegan_distributed import is_first
from stylegan_files import append_line
from stylegan_runs import RunFolder


class Teller:
    """Says lines to the terminal and to log.txt, once however many processes there are."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def __call__(self, message: str) -> None:
        """Say `message`."""
        from tqdm import tqdm

        if is_first():
            tqdm.write(message, file=sys.stdout)
            with self.log.open("a", encoding="utf-8") as file:
                file.write(message + "\n")


class Records:
    """What a run writes down at each tick; the first process alone writes.

    Attributes:
        folder: the run's.
        events: TensorBoard's writer, or None.
        wandb: the run of Weights & Biases, or None.
        tell: says a line.
    """

    def __init__(self, folder: RunFolder, images: int, project: str | None, tell: Callable[[str], None]) -> None:
        """Go on with the records of a run that has seen `images`."""
        self.folder, self.tell = folder, tell
        self.events = open_events(folder.path, images, tell) if is_first() else None
        self.wandb = open_wandb(folder, project, tell) if is_first() and project else None

    def tick(self, line: dict[str, Any], images: int) -> None:
        """Write down the `line` of a tick: values as {num, mean, std} by name."""
        if not is_first():
            return
        append_line(self.folder.stats, line | {"timestamp": time.time()})
        self._scalars({name: value["mean"] for name, value in line.items()}, images)

    def metric(self, name: str, line: dict[str, Any], images: int) -> None:
        """Write down the `line` of the metric `name`: what it found is under `results`, by what that is called.

        Results that are not what `name` stands for, as with other weights, go to a file of their own name.
        """
        if not is_first():
            return
        usual = any(result.startswith(name) for result in line["results"])
        append_line(self.folder.metric(name if usual else next(iter(line["results"]))), line)
        self._scalars({f"Metrics/{key}": float(value) for key, value in line["results"].items()}, images)

    def close(self) -> None:
        """Have everything on disk."""
        if self.events is not None:
            self.events.close()
        if self.wandb is not None:
            self.wandb.finish()

    def _scalars(self, values: dict[str, float], images: int) -> None:
        if self.events is not None:
            for name, value in values.items():
                self.events.add_scalar(name, value, global_step=images // 1000)
            self.events.flush()
        if self.wandb is not None:
            try:
                self.wandb.log(values | {"kimg": images / 1000})
            except wandb_failures() as error:
                self.wandb = None
                self.tell(
                    f"WARNING: goes on without Weights & Biases ({short(error)}); stats.jsonl has the same values"
                )


def open_events(folder: Path, images: int, tell: Callable[[str], None]) -> Any:
    """Return TensorBoard's writer to `folder`, what is beyond `images` being done again; None where it is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        tell("Skipping tfevents export: tensorboard is not installed; stats.jsonl has the same values")
        return None
    return SummaryWriter(str(folder), purge_step=images // 1000 + 1 if images else 0)


def open_wandb(folder: RunFolder, project: str, tell: Callable[[str], None]) -> Any:
    """Return a run of Weights & Biases, offline without a login; None, told, where it cannot begin.

    A run that goes on is one curve there too. `WANDB_MODE` in the environment goes before all this.
    """
    try:
        import wandb
    except ImportError:
        tell("WARNING: --wandb: the package wandb is not installed; goes on without it")
        return None
    login = os.environ.get("WANDB_API_KEY") or (Path.home() / ".netrc").exists()
    mode: Any = os.environ.get("WANDB_MODE") or ("online" if login else "offline")
    told = json.loads(folder.options.read_text(encoding="utf-8"))
    begun = hashlib.sha256(f"{folder.path.absolute()} {told['started']}".encode()).hexdigest()[:16]
    settings = wandb.Settings(
        mode=mode, init_timeout=30, finish_timeout=60, silent=True, console="off", disable_git=True
    )
    try:
        run = wandb.init(project=project, dir=folder.path, config=told, id=begun, resume="allow", settings=settings)
        run.define_metric("*", step_metric="kimg")
    except wandb_failures() as error:
        tell(f"WARNING: goes on without Weights & Biases ({short(error)}); stats.jsonl has the same values")
        return None
    return run


def wandb_failures() -> tuple[type[Exception], ...]:
    """Return what W&B raises on a name or key that it refuses, a service that is away, a setting that is no value."""
    import wandb

    return wandb.Error, OSError, ValueError


def short(error: Exception) -> str:
    """Return what `error` says, on one line."""
    return " ".join(str(error).split())[:200]
