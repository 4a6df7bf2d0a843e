"""How the script talks: options of addresses and products, lines of text, the progress bar."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import click

from aras.downloading.addresses import is_web_address
from aras.downloading.jobs import still_wanted
from aras.downloading.raw_tiles import PRODUCTS


def byte_bar(total: int, initial: int = 0, what: str = "download") -> Any:
    """Return a progress bar in bytes with rate and ETA; where nobody watches it is drawn seldom."""
    from tqdm import tqdm

    pause = 0.2 if sys.stderr.isatty() else 30.0  # s
    return tqdm(
        total=total, initial=initial, unit="B", unit_scale=True, desc=what, mininterval=pause, maxinterval=pause
    )


def tell(lines: Iterable[str]) -> None:
    """Print `lines`."""
    for line in lines:
        click.echo(line)


def tell_unsound(jobs: list[Any]) -> None:
    """Print which files are there but do not count."""
    for job in still_wanted(jobs):
        if job.reason:
            click.echo(f"{job.path} does not count as present: {job.reason}", err=True)


def products_of_names(context: click.Context, parameter: click.Parameter, names: str) -> list[Any]:
    """Return the products that --products names."""
    chosen = [name.strip() for name in names.split(",")]
    unknown = [name for name in chosen if name not in PRODUCTS]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(PRODUCTS)}")
    return [product for name, product in PRODUCTS.items() if name in chosen]


def checked_url(context: click.Context, parameter: click.Parameter, url: str) -> str:
    """Return `url` if it is a base address; one with a password or a signature is not even shown."""
    if not is_web_address(url) or "@" in url or "?" in url or "#" in url:
        raise click.BadParameter("give http://... or https://... without a password or a query, which would be logged")
    return url


def url_option(name: str, default: str, text: str) -> Any:
    """Return the option of a base URL."""
    return click.option(name, metavar="URL", default=default, show_default=True, callback=checked_url, help=text)
