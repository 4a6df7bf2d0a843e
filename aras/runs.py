"""run.json: what made an output, so that it can be made again and is never mixed with another's."""

import platform
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from aras.errors import UserError
from aras.files import read_json, write_json

FREE = frozenset({"workers", "engine", "scheduler", "address", "device", "output", "outdir", "wandb_project"})
"""Options that cannot change the result, and so may change between a run and its continuation."""


def begin_run(
    path: Path, options: dict[str, Any], packages: Iterable[str] = (), device: str = "cpu", free: frozenset[str] = FREE
) -> bool:
    """Write `path` (a run.json), or check that the run it tells of is the one asked for; True when it goes on from one.

    Args:
        path: the run.json of a run folder, or `<output>.run.json` beside a single file.
        options: every option of the command, by name. Paths and tuples are stored as text and lists.
        packages: distributions whose versions matter to the result.
        device: where the run computes.
        free: names of options that may differ from the earlier run.

    Raises:
        UserError: `path` tells of a run with other options; the message names them.
    """
    if path.exists():
        check_same_options(path, options, free)
        return True
    write_json(
        path,
        {
            "options": {name: plain(value) for name, value in options.items()},
            "command": sys.argv,
            "commit": commit_of_code(),
            "seed": options.get("seed"),
            "versions": versions(packages),
            "device": device,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )
    return False


def check_same_options(path: Path, options: dict[str, Any], free: frozenset[str] = FREE) -> None:
    """Raise `UserError` unless `options` are those of the run.json at `path`, the `free` ones aside."""
    run = read_json(path)
    before = run.get("options") if isinstance(run, dict) else None
    if not isinstance(before, dict):
        raise UserError(f"{path} does not tell of a run; delete its folder or name another one")
    names = sorted((before.keys() | options.keys()) - free)
    changed = [name for name in names if not same(before.get(name), options.get(name))]
    if changed:
        told = "; ".join(
            f"--{n.replace('_', '-')} was {said(before.get(n))}, now {said(plain(options.get(n)))}" for n in changed
        )
        raise UserError(f"{path} is of a run with other options: {told}. Repeat those, or name another output")


def said(value: Any) -> Any:
    """Return the option `value` as an error says it."""
    return "not given" if value is None else value


def same(before: Any, now: Any) -> bool:
    """Return whether the option `now` is what run.json tells of as `before`; a path however it is spelt."""
    if isinstance(now, Path) and isinstance(before, str):
        return Path(before).absolute() == now.absolute()
    return bool(before == plain(now))


def plain(value: Any) -> Any:
    """Return `value` as JSON has it: paths as text, tuples as lists."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python and of the installed `packages`."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def commit_of_code() -> str | None:
    """Return the git commit of this code, with `+` when files differ from it; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return told.stdout.strip() or None
