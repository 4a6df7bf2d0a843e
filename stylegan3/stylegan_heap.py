"""Main memory that tensors give back is kept for the next ones, where the C library lets it be."""

import ctypes
import sys

MMAP_MAX, TRIM_THRESHOLD = -4, -1  # glibc's names of what mallopt sets, M_MMAP_MAX and M_TRIM_THRESHOLD
LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have this process keep memory that it frees; return whether it could be arranged.

    glibc returns every large block to the system at once, and asks for it again for the next tensor: zeroing its
    pages can take longer than what is computed in them. Kept, a training step on a CPU was up to a sixth shorter at
    256 px and no shorter at 64 px; the process holds on to the most that it ever needed. Linux with glibc alone.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(MMAP_MAX, 0)) and bool(mallopt(TRIM_THRESHOLD, LARGEST_INT))
