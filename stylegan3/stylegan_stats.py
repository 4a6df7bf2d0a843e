"""What a training tells of itself: running sums kept on the device, and what they say at the end of each tick.

No number leaves the device while a tick runs, so the host never waits for the GPU to tell one.
"""

import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from stylegan_distributed import add_up

NAMES = (
    "Loss/scores/fake",
    "Loss/signs/fake",
    "Loss/G/loss",
    "Loss/pl_penalty",
    "Loss/G/reg",
    "Loss/scores/real",
    "Loss/signs/real",
    "Loss/D/loss",
    "Loss/r1_penalty",
    "Loss/D/reg",
)
"""What the losses report; stats.jsonl has those that had something to report."""


class Statistics:
    """Counts, sums and sums of squares of what the losses report, on the device.

    Attributes:
        sums: (names, 3) float64: how many, their sum, the sum of their squares, of this rank since the last `take`.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(len(NAMES), 3, dtype=torch.float64, device=device)

    def report(self, name: str, values: torch.Tensor) -> None:
        """Add the `values`, of any shape, to what is known of `name`."""
        values = values.detach().to(torch.float64)
        row = self.sums[NAMES.index(name)]
        row[0] += values.numel()
        row[1:] += torch.stack([values.sum(), values.square().sum()])

    def take(self) -> dict[str, dict[str, float]]:
        """Return num, mean and std of all ranks' values by name, and begin anew."""
        sums = self.sums.clone()
        self.sums.zero_()
        add_up(sums)
        told = {}
        for name, (count, total, squares) in zip(NAMES, sums.tolist(), strict=True):
            if count:
                mean = total / count
                spread = max(squares / count - mean**2, 0) ** 0.5  # max() lets nan through as its first argument
                told[name] = {"num": int(count), "mean": mean, "std": spread}
        return told


class PhaseTimes:
    """How long the phases take, in milliseconds, without making the host wait for the GPU."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.marks: dict[str, list[tuple[Any, Any]]] = {}

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Count the time of the body as that of `phase`."""
        begun = self._mark()
        yield
        self.marks.setdefault(phase, []).append((begun, self._mark()))

    def take(self) -> dict[str, list[float]]:
        """Return every time of every phase, and begin anew."""
        marks, self.marks = self.marks, {}
        if self.on_gpu:
            torch.cuda.synchronize()
            return {name: [a.elapsed_time(b) for a, b in pairs] for name, pairs in marks.items()}
        return {name: [1000 * (b - a) for a, b in pairs] for name, pairs in marks.items()}

    def _mark(self) -> Any:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def summed_up(values: list[float]) -> dict[str, float]:
    """Return num, mean and std of `values`."""
    mean = sum(values) / len(values)
    return {"num": len(values), "mean": mean, "std": (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5}


def resources(device: torch.device) -> dict[str, float]:
    """Return the memory that this process has and has had, in GiB, and begin the GPU's peaks anew."""
    used = {"cpu_mem_gb": host_memory() / 2**30, "peak_gpu_mem_gb": 0.0, "peak_gpu_mem_reserved_gb": 0.0}
    if device.type == "cuda":
        used["peak_gpu_mem_gb"] = torch.cuda.max_memory_allocated(device) / 2**30
        used["peak_gpu_mem_reserved_gb"] = torch.cuda.max_memory_reserved(device) / 2**30
        torch.cuda.reset_peak_memory_stats(device)
    return used


def host_memory() -> int:
    """Return the bytes of main memory that this process holds; the most it has held where /proc is not there."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def told_time(seconds: float) -> str:
    """Return `seconds` as people say them: 1d 02h 03m, 2h 03m 04s, 3m 04s or 4s."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d {h:02}h {m:02}m"
    if h:
        return f"{h}h {m:02}m {s:02}s"
    return f"{m}m {s:02}s" if m else f"{s}s"


def status_line(line: dict[str, Any]) -> str:
    """Return what is said at the end of a tick, from its line of stats.jsonl."""

    def mean(name: str) -> float:
        return float(line[name]["mean"])

    return (
        f"tick {mean('Progress/tick'):<5.0f} kimg {mean('Progress/kimg'):<9.1f} "
        f"time {told_time(mean('Timing/total_sec')):<12} sec/tick {mean('Timing/sec_per_tick'):<7.1f} "
        f"sec/kimg {mean('Timing/sec_per_kimg'):<7.2f} maintenance {mean('Timing/maintenance_sec'):<6.1f} "
        f"cpumem {mean('Resources/cpu_mem_gb'):<6.2f} gpumem {mean('Resources/peak_gpu_mem_gb'):<6.2f} "
        f"reserved {mean('Resources/peak_gpu_mem_reserved_gb'):<6.2f} augment {mean('Progress/augment'):.3f}"
    )
