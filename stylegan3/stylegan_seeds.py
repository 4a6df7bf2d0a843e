"""Seeds and offsets on the command line, and the options that scripts which make images have in common."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

LARGEST_SEED = 2**32 - 1
"""What NumPy's RandomState takes."""
MOST_SEEDS = 1_000_000


class Seeds(click.ParamType):
    """At most `MOST_SEEDS` numbers and ranges of them, such as 0,1,4-6."""

    name = "seeds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """Return the numbers in their order."""
        if isinstance(value, list):
            return value
        seeds: list[int] = []
        for part in str(value).split(","):
            match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
            if not match or int(match[2] or match[1]) > LARGEST_SEED:
                self.fail(f"{part!r} is no seed from 0 to {LARGEST_SEED}, or range such as 4-6.", param, ctx)
            own = range(int(match[1]), int(match[2] or match[1]) + 1)
            if not own:
                self.fail(f"{part!r} goes down; write the smaller seed first.", param, ctx)
            if len(seeds) + len(own) > MOST_SEEDS:
                self.fail(f"{value!r} has more than {MOST_SEEDS:,} seeds.", param, ctx)
            seeds += own
        return seeds


class Finite(click.types.FloatParamType):
    """A number that is neither infinite nor nan."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Offset(click.ParamType):
    """Two numbers with a comma between them."""

    name = "x,y"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        """Return the two numbers."""
        if isinstance(value, tuple):
            return value
        try:
            x, y = (float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not two numbers such as 0.25,0.", param, ctx)
        if not (math.isfinite(x) and math.isfinite(y)):
            self.fail(f"{value!r} is not finite.", param, ctx)
        return x, y


class Grid(click.ParamType):
    """Columns and rows."""

    name = "WxH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Return the two numbers."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", str(value))
        if not match:
            self.fail(f"{value!r} is no number of columns and rows such as 4x2.", param, ctx)
        return int(match[1]), int(match[2])


network_option: Decorator = click.option(
    "--network",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="A network snapshot of train.py, or an official pickle, of which nothing is run.",
)
truncation_option: Decorator = click.option(
    "--trunc",
    type=Finite(),
    default=1.0,
    show_default=True,
    metavar="PSI",
    help="Truncation, mostly 0 to 1: 1 is none, less is less varied and more typical, 0 is one image.",
)
class_option: Decorator = click.option(
    "--class", "class", type=click.IntRange(0), metavar="K", help="Class of a network with labels."
)
device_option: Decorator = click.option(
    "--device",
    type=click.Choice(["auto", "cuda", "cpu"]),
    default="auto",
    show_default=True,
    help="Where to compute; auto takes the GPU when there is one.",
)
