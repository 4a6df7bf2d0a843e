"""The command line's common ground: errors as one line, and the options that every stage spells the same way.

The options are objects to decorate a `main` with, so that `--seed` or `--device` cannot drift from script to script.
"""

import errno
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from aras.errors import UserError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

LARGEST_SEED = 2**32 - 1
"""What scikit-learn takes; PyTorch and NumPy take more."""

REMEDIES = {
    errno.ENOSPC: "free some disk space, then run the same command again",
    errno.EDQUOT: "free some of your disk quota, then run the same command again",
    errno.EACCES: "make it readable and writable for you, or name another place",
    errno.EROFS: "name a place that can be written",
    errno.ENOENT: "check the path, or run the stage that writes it first",
    errno.EIO: "the disk or the file is damaged: fetch or make the file again",
}


class Command(click.Command):
    """A click command whose foreseeable failures are one line on stderr and exit code 1, never a traceback.

    Set `ARAS_TRACEBACK=1` in the environment to see the traceback all the same. In the help, a line with nothing but
    a backslash and a b keeps the paragraph after it as it is written, also when the docstring is a raw string.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Take what click.Command takes."""
        super().__init__(*arguments, **options)
        if self.help:
            self.help = self.help.replace("\\b\n", "\b\n")

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn `UserError` and `OSError` into one line."""
        try:
            return super().invoke(ctx)
        except (UserError, OSError) as error:
            if os.environ.get("ARAS_TRACEBACK"):
                raise
            message = str(error) if isinstance(error, UserError) else message_of_os_error(error)
            raise click.ClickException(message) from None


def message_of_os_error(error: OSError) -> str:
    """Return one line for an `OSError`: what failed, on which file, and what to do about it."""
    what = error.strerror or str(error) or type(error).__name__
    where = f"{error.filename}: " if error.filename else ""
    remedy = REMEDIES.get(error.errno or 0)
    return f"{where}{what}" + (f"; {remedy}" if remedy else "")


class Number(click.FloatRange):
    """A finite number within a range; click's own lets nan through every range, and inf through one without an end."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return `value` as a float; fail if it is none, not finite or out of the range."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


data_option: Decorator = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("ARAS400k"),
    show_default=True,
    help="The dataset's folder.",
)
device_option: Decorator = click.option(
    "--device",
    type=click.Choice(["auto", "cuda", "cpu"]),
    default="auto",
    show_default=True,
    help="Where to compute; auto takes the GPU when there is one.",
)
seed_option: Decorator = click.option(
    "--seed",
    type=click.IntRange(0, LARGEST_SEED),
    default=0,
    show_default=True,
    help="Everything random follows from it.",
)
limit_option: Decorator = click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="Stop after the first N items; for a quick try."
)
dry_run_option: Decorator = click.option("--dry-run", is_flag=True, help="Say what would be done, and do none of it.")
wandb_option: Decorator = click.option(
    "--wandb", "wandb_project", metavar="PROJECT", help="Also log to this Weights & Biases project."
)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers_option(default: int | None = None) -> Decorator:
    """Return `--workers`, by default one per core."""
    return click.option(
        "--workers",
        type=click.IntRange(0 if default is not None else 1),
        default=default if default is not None else cores(),
        show_default=str(default) if default is not None else "one per core",
        help="Parallel processes.",
    )
