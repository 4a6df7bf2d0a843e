"""Several trainings that differ in nothing but their seed, and what their test scores say together."""

from collections.abc import Iterable
from statistics import mean, stdev
from typing import Any

from aras.command import LARGEST_SEED
from aras.confusion import SCORES
from aras.legend import CLASS_NAMES

SUMMARISED = ("loss", "accuracy", *SCORES, *(f"{name}_all" for name in SCORES))
"""The numbers of a test_metrics.json that are summarised over runs."""

CLASS_SCORES = ("f1", "iou")  # and those of each class


def seeds_of(text: str) -> tuple[int, ...]:
    """Return the seeds of `--seeds` `text`, such as 0,1,2.

    Raises:
        ValueError: one is no whole number from 0 to `LARGEST_SEED`, or is there twice; the message is for a usage
            error.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() for word in words):
        raise ValueError(f"{text!r} is not whole numbers from 0 with commas between them, such as 0,1,2")
    seeds = tuple(map(int, words))
    if max(seeds) > LARGEST_SEED:
        raise ValueError(f"{max(seeds)} is above {LARGEST_SEED}, the largest seed")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{text!r} has a seed twice; the two runs would be the same")
    return seeds


def summary_of(runs: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Return what seeds.json holds: each run's scores, and what they are together.

    `runs` has each run's scores by seed; `scores` has by score, and `classes` by class and score, the `mean`, `std`
    (the standard deviation with n - 1 below), `min` and `max` over runs. `std` is null for one run. A class that the
    test split does not have, named in `absent`, has null everywhere.

    Args:
        runs: what each run's test_metrics.json holds, by seed.
    """
    first = next(iter(runs.values()))
    told = {str(seed): _scores_of(run) for seed, run in runs.items()}
    return {
        "seeds": list(runs),
        "absent": first["absent"],
        "scores": {name: _spread(run[name] for run in told.values()) for name in SUMMARISED},
        "classes": {
            c: {name: _spread(run["classes"][c][name] for run in told.values()) for name in CLASS_SCORES}
            for c in CLASS_NAMES
        },
        "runs": told,
    }


def _scores_of(run: dict[str, Any]) -> dict[str, Any]:
    """Return the scores of one run's test_metrics.json that are summarised, those of absent classes as None."""
    classes = {
        c: {name: run["classes"][c][name] if c not in run["absent"] else None for name in CLASS_SCORES}
        for c in CLASS_NAMES
    }
    return {name: run[name] for name in ("best_epoch", *SUMMARISED)} | {"classes": classes}


def _spread(values: Iterable[float | None]) -> dict[str, float | None]:
    """Return mean, standard deviation, smallest and largest of `values`; None where there is nothing to tell."""
    found = [value for value in values if value is not None]
    if not found:
        return {"mean": None, "std": None, "min": None, "max": None}
    return {
        "mean": mean(found),
        "std": stdev(found) if len(found) > 1 else None,
        "min": min(found),
        "max": max(found),
    }


def table_of(summary: dict[str, Any]) -> str:
    """Return what `summary_of` found as a table for people: a line for each score, then one for each class present."""
    seeds = summary["seeds"]
    lines = [f"{len(seeds)} run{'s' * (len(seeds) > 1)}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"]
    lines.append(f"{'':20}" + "".join(f"{name:>9}" for name in ("mean", "std", "min", "max")))
    rows = {name: summary["scores"][name] for name in ("accuracy", *SCORES)}
    for c in CLASS_NAMES:
        if c not in summary["absent"]:
            rows |= {f"{c} {name}": summary["classes"][c][name] for name in CLASS_SCORES}
    for name, spread in rows.items():
        lines.append(f"{name:20}" + "".join(f"{'-' if v is None else f'{v:.4f}':>9}" for v in spread.values()))
    if summary["absent"]:
        lines.append(f"no such pixels, so not counted in the mean: {', '.join(summary['absent'])}")
    return "\n".join(lines)
