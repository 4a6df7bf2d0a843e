"""Decoded images in memory, shared by all processes that read them."""

import os
import tempfile
from multiprocessing import reduction
from pathlib import Path

import numpy as np

SHARE = 0.5  # of the free memory, that the processes of a training fill together with decoded images


def default_cache_bytes(processes: int = 1) -> int:
    """Return how much memory each of `processes` may fill: its part of half of what is free, as the machine tells.

    Where a container has less than the machine, half of the container's limit counts.
    """
    free = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    memory = Path("/proc/meminfo")
    if memory.exists():
        table = dict(line.split(":") for line in memory.read_text().splitlines())
        free = [int(table["MemAvailable"].split()[0]) * 1024]
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(limit).read_text().strip() if Path(limit).exists() else "max"
        free += [int(text)] if text.isdigit() else []
    return int(SHARE * min(free)) // processes


class PixelCache:
    """The first images of a dataset, as many as fit, each kept when it is first put.

    It is an unnamed file in memory, read and written by position: memory is taken as images come, a forked worker
    shares it, and one that is started afresh gets it handed over. What two processes put at once is the same.
    """

    def __init__(self, shape: tuple[int, ...], count: int, cache_bytes: int):
        self.shape, self.size = shape, int(np.prod(shape))
        self.slots = max(0, min(count, cache_bytes // (self.size + 1)))
        self.file = memory_file() if self.slots else -1

    def __getstate__(self) -> dict[str, object]:
        """Hand the file itself to a process that is being started."""
        return self.__dict__ | {"file": reduction.DupFd(self.file) if self.slots else None}

    def __setstate__(self, state: dict[str, object]) -> None:
        file = state["file"]
        self.__dict__.update(state)
        self.file = file.detach() if file is not None else -1  # type: ignore[attr-defined]

    def __del__(self) -> None:
        if getattr(self, "file", -1) >= 0:
            os.close(self.file)

    def get(self, index: int) -> np.ndarray | None:
        """Return the pixels of image `index`, a copy, or None if they are not kept."""
        place = index * (self.size + 1)
        if index >= self.slots or os.pread(self.file, 1, place + self.size) != b"\1":
            return None
        pixels = np.empty(self.shape, np.uint8)
        os.preadv(self.file, [pixels.data.cast("B")], place)
        return pixels

    def put(self, index: int, pixels: np.ndarray) -> None:
        """Keep the `pixels` (contiguous uint8) of image `index` if they fit; their mark follows them."""
        if index >= self.slots:
            return
        place = index * (self.size + 1)
        try:
            os.pwrite(self.file, pixels.data.cast("B"), place)
            os.pwrite(self.file, b"\1", place + self.size)
        except OSError:  # no room is left: what is not marked counts as not there, and training reads it from its file
            self.slots = index


def memory_file() -> int:
    """Return a new file that has no name and is gone with its last process: in memory where the system can."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("images", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
