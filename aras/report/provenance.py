"""What made each output: the run.json beside it, without anything that looks like a secret."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aras.report.page import Provenance, Provenances
from aras.report.places import SETS, Places
from aras.report.reading import Reader, listed, mapped, plain_text

MOST = 200  # outputs
HIDDEN = "(hidden)"
SECRET_WORDS = {"key", "apikey", "token", "secret", "password", "passwd", "credential", "credentials", "authorization"}
SECRET = re.compile(
    r"\b(?:sk-[\w-]{12,}|hf_\w{12,}|gh[pousr]_\w{12,}|github_pat_\w+|glpat-[\w-]+|AKIA\w{12,}|xox[abps]-[\w-]+"
    r"|eyJ[\w-]+\.[\w-]+\.[\w-]*|(?i:bearer)\s+\S+)|(?<=://)[^/\s@]+(?=@)"
)
"""Keys of well-known services, and the user and password of an address."""


def provenances(places: Places, run_folders: list[Path], reader: Reader) -> Provenances | None:
    """Return what made each output that tells of it, None when none does."""
    runs: list[Provenance] = []
    for path in records(places, run_folders):
        told = reader.json(path) if len(runs) < MOST else {}
        if told:
            runs.append(provenance_of(path, told, places))
    return Provenances(runs) if runs else None


def records(places: Places, run_folders: list[Path]) -> Iterator[Path]:
    """Yield the records that are there, in the order of the stages."""
    folders = [places.data, *(places.images(name) for name in SETS), *run_folders, places.predictions]
    folders += [places.feature_maps, places.fidelity, places.selection, places.results]
    beside = [folder for name in SETS for folder in (places.images(name), places.masks(name))]
    wanted = [folder / name for folder in folders for name in ("run.json", "training_options.json")]
    wanted += [folder.with_name(f"{folder.name}.run.json") for folder in beside]
    wanted += [*sorted(places.captions.glob("*.run.json")), *sorted(places.root.glob("*.run.json"))]
    yield from (path for path in dict.fromkeys(wanted) if path.is_file())


def provenance_of(path: Path, told: dict[str, Any], places: Places) -> Provenance:
    """Return what the record `path` tells."""
    command = [part for part in listed(told.get("command")) if isinstance(part, str)]
    stage = Path(command[0]).name if command else "stylegan3/train.py" if "G_config" in told else ""
    options = mapped(told.get("options"))
    made = path.parent if path.name.count(".") == 1 else path.with_name(path.name.removesuffix(".run.json"))
    return Provenance(
        plain_text(stage, 200),
        plain_text(places.shown(made), 300),
        places.without_machine(" ".join(["python", *shown_command(command)] if command else [])),
        plain_text(told.get("commit"), 60),
        plain_text(told.get("started"), 40),
        plain_text(told.get("device") or options.get("device"), 120),
        {plain_text(k, 60): plain_text(v, 60) for k, v in mapped(told.get("versions")).items()},
        {
            plain_text(name, 60): places.without_machine(shown(name, value))
            for name, value in options.items()
            if value is not None
        },
    )


def is_secret(name: str) -> bool:
    """Return whether an option called `name` holds a secret, as `--api-key` or `hub_token` do; not `max_new_tokens`."""
    return bool(SECRET_WORDS & set(re.split(r"[^a-z]+", name.lower())))


def shown(name: str, value: Any) -> str:
    """Return the `value` of the option `name` as the page shows it."""
    return HIDDEN if is_secret(name) else SECRET.sub(HIDDEN, plain_text(value, 600))


def shown_command(words: list[str]) -> Iterator[str]:
    """Yield the words of a command as a shell takes them."""
    hide = False
    for word in words:
        name, equals, _ = word.partition("=")
        if hide and not word.startswith("-"):
            yield HIDDEN
        elif word.startswith("-") and equals and is_secret(name):
            yield f"{name}={HIDDEN}"
        else:
            yield shlex.quote(SECRET.sub(HIDDEN, plain_text(word, 600)))
        hide = word.startswith("-") and not equals and is_secret(word)
