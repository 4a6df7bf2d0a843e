"""Test scores of several sets of trainings as one Markdown table, each beside the first.

Each row is a folder that `segmentation_train.py --seeds` wrote: mean and standard deviation over its seeds. With few
seeds a difference smaller than two standard deviations says little.
"""

import sys
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from aras.command import Command
from aras.errors import UserError
from aras.files import read_json
from aras.legend import CLASS_NAMES


def told(spread: dict[str, float | None]) -> str:
    """Return mean and standard deviation in percent."""
    if spread["mean"] is None:
        return ""
    deviation = "" if spread["std"] is None else f" ± {100 * spread['std']:.1f}"
    return f"{100 * spread['mean']:.1f}{deviation}"


def table(summaries: dict[str, dict[str, Any]]) -> str:
    """Return the Markdown table of `summaries`, what each seeds.json holds by its run's name."""
    present = [name for name in CLASS_NAMES if any(name not in found["absent"] for found in summaries.values())]
    columns = ["training", "seeds", "F1", "IoU", "accuracy", *present]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for name, found in summaries.items():
        means = [told(found["scores"][score]) for score in ("f1", "iou", "accuracy")]
        of_class = [told(found["classes"][c]["f1"]) for c in present]
        lines.append("| " + " | ".join([name, str(len(found["seeds"])), *means, *of_class]) + " |")
    return "\n".join(lines)


@click.command(cls=Command)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
def main(files: tuple[Path, ...]) -> None:
    """Print the test scores of FILES, the seeds.json of several trainings, as a Markdown table (class columns: F1).

    Example: python runs/options_table.py demo/options/*/seeds.json

    To resume, run the same command again.
    """
    for path in files:
        if not path.is_file():
            raise UserError(f"{path} is missing; run segmentation_train.py with --seeds and that --outdir first")
    click.echo(table({path.parent.name: read_json(path) for path in files}))


if __name__ == "__main__":
    main()
