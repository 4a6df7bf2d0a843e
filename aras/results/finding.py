"""The outputs below given folders: each is read and used, or named with the reason why not."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aras.results.trainings import Training, is_training, told_apart, training_of

TESTED, RECORD = "test_metrics.json", "run.json"
PRUNED = {"images", "masks", "generated", "confidence", "features", "samples", "packages"}
"""Folders that hold images or the like by the thousand, and no run."""


@dataclass
class Found:
    """All that was found.

    Attributes:
        trainings: finished ones.
        unfinished: the folders of those that are not tested yet.
        fidelity: what each fidelity.json holds, by its path.
        captions: what each caption_metrics.json holds.
        silhouettes: what each silhouette.json holds.
        problems: files that cannot be used, and why.
        repeated: trainings that are there twice, which count once.
    """

    trainings: list[Training] = field(default_factory=list)
    unfinished: list[Path] = field(default_factory=list)
    fidelity: dict[Path, dict[str, Any]] = field(default_factory=dict)
    captions: dict[Path, dict[str, Any]] = field(default_factory=dict)
    silhouettes: dict[Path, dict[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)


def find(folders: Iterable[Path]) -> Found:
    """Return what lies in `folders` and below; a folder that lies in another counts once."""
    found = Found()
    kinds: dict[str, tuple[dict[Path, dict[str, Any]], Callable[[Any], bool]]] = {
        "fidelity.json": (found.fidelity, is_fidelity),
        "caption_metrics.json": (found.captions, is_captions),
        "silhouette.json": (found.silhouettes, is_silhouettes),
    }
    for folder, names in walk(folders, found.problems):
        if TESTED in names or RECORD in names:
            take_training(found, folder, names)
        for name, (kept, fits) in kinds.items():
            if name in names:
                value, problem = read(folder / name)
                if not problem and not fits(value):
                    problem = f"{folder / name} is not what its name says; delete it and run that stage again"
                if problem:
                    found.problems.append(problem)
                else:
                    kept[folder / name] = value
    found.trainings = told_apart(once_each(found))
    return found


def walk(folders: Iterable[Path], problems: list[str]) -> Iterator[tuple[Path, set[str]]]:
    """Yield each folder that can hold an output once, also behind links, and its files' names, in sorted order.

    A folder that cannot be read is added to `problems`.
    """

    def note(error: OSError) -> None:
        problems.append(f"{error.filename} cannot be read ({error.strerror}); make it readable for you")

    seen: set[Path] = set()
    for top in folders:
        for path, below, names in os.walk(top, onerror=note, followlinks=True):
            place = Path(path).resolve()
            if place in seen:
                below.clear()
                continue
            seen.add(place)
            below[:] = sorted(name for name in below if name not in PRUNED and not name.startswith("."))
            yield Path(path), set(names)


def read(path: Path) -> tuple[Any, str]:
    """Return the JSON value in `path` and "", or None and why it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8")), ""
    except (OSError, ValueError) as error:
        return None, f"{path} is not readable JSON ({error}); delete it and run its stage again"


def take_training(found: Found, folder: Path, names: set[str]) -> None:
    """Add the training in `folder`, if it is one, to `found`."""
    run, problem = read(folder / RECORD) if RECORD in names else (None, "")
    options = run.get("options") if isinstance(run, dict) else None
    if TESTED not in names:
        if problem:
            found.problems.append(problem)
        elif isinstance(options, dict) and is_training(options):
            found.unfinished.append(folder)
        return
    tested, torn = read(folder / TESTED)
    if RECORD not in names:
        problem = f"{folder / TESTED} lacks the {RECORD} that tells of what run it is"
    if problem or torn:
        found.problems.append(problem or torn)
        return
    try:
        found.trainings.append(training_of(folder, run, tested))
    except ValueError as error:
        found.problems.append(f"{folder / TESTED} cannot be used: {error}")


def once_each(found: Found) -> list[Training]:
    """Return the trainings of `found`, of those that are alike to the seed only the newest, which is noted.

    Two of the same data, model, recipe and seed whose scores differ are a problem: one seed must not count as two.
    """
    newest: dict[Any, Training] = {}
    for training in sorted(found.trainings, key=lambda one: (one.started, str(one.folder))):
        key = (training.setting, training.column, training.arch, training.seed, tuple(training.images.items()))
        before = newest.get(key)
        if before and before.scores == training.scores:
            found.repeated.append(f"{before.folder} is the same training as {training.folder}; it counts once")
        elif before:
            found.problems.append(
                f"{before.folder} and {training.folder} are the same training with other scores; the newer one,"
                f" {training.folder}, is used: leave one of them out"
            )
        newest[key] = training
    return sorted(newest.values(), key=lambda one: str(one.folder))


def is_fidelity(value: Any) -> bool:
    """Return whether `value` is what synthetic_metrics.py writes."""
    return isinstance(value, dict) and isinstance(value.get("sets"), dict) and isinstance(value.get("measures"), dict)


def is_captions(value: Any) -> bool:
    """Return whether `value` is what caption_metrics.py writes."""
    streams = value.get("streams") if isinstance(value, dict) else None
    return isinstance(streams, dict) and all(isinstance(one, dict) and "texts" in one for one in streams.values())


def is_silhouettes(value: Any) -> bool:
    """Return whether `value` is what segformer_vis.py writes."""
    return isinstance(value, dict) and isinstance(value.get("pairs"), list) and isinstance(value.get("overall"), dict)
