"""What a worker of a cluster does with an item: it first makes sure that the result is what this machine would make.

Bytes depend on the code, on the packages that encode pixels, and on the files; a worker that has others says so.
"""

import hashlib
import pickle
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from aras.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("numpy", "pillow", "opencv-python-headless", "rasterio")
"""Those that make pixels."""


def code_digest() -> str:
    """Return what changes when a line of the package `aras` does."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "aras").rglob("*.py")):
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


CODE = code_digest()
"""At import: of what this process runs, whatever is done to the files afterwards."""


def pixel_packages() -> tuple[tuple[str, str], ...]:
    """Return (name, version) of Python and of the packages that make pixels."""
    versions = [("python", platform.python_version().rpartition(".")[0])]
    for name in PACKAGES:
        try:
            versions.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            versions.append((name, "none"))
    return tuple(versions)


@dataclass(frozen=True)
class Task:
    """`work` for the items of a run, with what a worker must have in common with the machine that asks for it."""

    work: Callable[[Any], Any]
    sees: tuple[str, ...]
    code: str = CODE
    packages: tuple[tuple[str, str], ...] = ()

    def __call__(self, item: Any) -> tuple[bool, Any]:
        """Return whether `item` was done, and the result; otherwise the foreseeable failure that ends the run."""
        try:
            check_worker(self.sees, self.code, self.packages)
            return True, self.work(item)
        except (UserError, OSError) as error:
            return False, error


@lru_cache(maxsize=16)
def check_worker(sees: tuple[str, ...], code: str, packages: tuple[tuple[str, str], ...]) -> None:
    """Raise `UserError` if this worker has other code or packages, or does not find the files; once per run."""
    here = platform.node()
    if code != CODE:
        raise UserError(f"the worker on {here} runs other code than this machine, from {ROOT}; update and restart it")
    other = [f"{name} {version}" for name, version in pixel_packages() if (name, version) not in packages]
    if other:
        told = ", ".join(other)
        wanted = ", ".join(f"{name} {version}" for name, version in packages)
        raise UserError(f"the worker on {here} has {told}, where this machine has {wanted}; install the same there")
    for path in sees:
        if not Path(path).exists():
            raise UserError(f"the worker on {here} does not see {path}; put it on a disk that all machines mount there")


def worker_call() -> Callable[[str, bytes, bytes], tuple[bool, Any]]:
    """Return the function that a cluster calls with this repository's folder, a pickled `Task` and a pickled item.

    It is sent by value, as a function without a module of its own is, so it can say that there is no `aras` to import.
    """

    def call(root: str, task: bytes, item: bytes) -> tuple[bool, Any]:
        import importlib.util
        import pickle
        import platform
        import sys

        if importlib.util.find_spec("aras") is None:
            sys.path.insert(0, root)
            importlib.invalidate_caches()
        try:
            work, what = pickle.loads(task), pickle.loads(item)
        except ImportError as error:
            where = f"the worker on {platform.node()} cannot import what it needs ({error})"
            return False, f"{where}; install requirements.txt there, and have it see {root} or on its PYTHONPATH"
        return work(what)

    return call


def payloads(
    work: Callable[[Any], Any], items: Iterable[Any], sees: Iterable[Path]
) -> Iterable[tuple[str, bytes, bytes]]:
    """Yield the arguments of `worker_call` for each of `items`."""
    task = pickle.dumps(Task(work, tuple(map(str, sees)), packages=pixel_packages()))
    for item in items:
        yield str(ROOT), task, pickle.dumps(item)


def result_of(outcome: tuple[bool, Any]) -> Any:
    """Return the result in the `outcome` of a call; raise what the worker foresaw instead."""
    done, value = outcome
    if done:
        return value
    raise value if isinstance(value, Exception) else UserError(value)
