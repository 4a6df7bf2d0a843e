"""Stage 7: the paper's tables, from what the other stages wrote.

Every run below the given folders is read from its own files: trainings of segmenters (run.json and test_metrics.json),
fidelity of images, captions, and maps of features. What a training is, its model, what it was trained on and with what,
is taken from its run.json and never from the name of its folder. Ours stand beside the published figures (arXiv
2603.09625) as means with 95 % intervals over seeds; training data are compared pair by pair, with tests corrected for
their number. What has not been run is marked, and so is what does not compare.
"""

from pathlib import Path
from typing import Any

import click

from aras.command import Command, dry_run_option
from aras.errors import UserError
from aras.files import remove_parts, sole_writer, write_json, write_text
from aras.results.comparing import comparison_table
from aras.results.finding import Found, find
from aras.results.images import captions_table, fidelity_table, silhouette_table
from aras.results.published import published
from aras.results.scores import details_table, groups_of, score_tables
from aras.results.table import Table
from aras.results.trainings import Training
from aras.results.writing import as_json, latex, markdown

USUAL = ("paper", "segmentation", "fidelity", "captions", "feature_maps")
"""Where the other stages write, and runs/paper.sh."""


def tables_of(found: Found) -> list[Table]:
    """Return all tables; a file that turns out to be another's is added to the problems of `found`."""
    tables = []
    for group in groups_of(found.trainings):
        tables += [*score_tables(group), details_table(group)]
        comparison = comparison_table(group)
        tables += [comparison] if comparison else []
    for make, kept in (
        (fidelity_table, found.fidelity),
        (captions_table, found.captions),
        (silhouette_table, found.silhouettes),
    ):
        made: list[Table] = []
        for path, value in kept.items():
            try:
                made.append(make(path, value, f"_{len(made)}" if made else ""))
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                found.problems.append(f"{path} does not tell what it should ({error}); run its stage again")
        tables += made or [make(None, None)]
    return tables


def told(training: Training) -> str:
    """Return what a training is taken for, in words."""
    unlike = [training.unlike] if training.unlike else []
    other = "; ".join([*training.setting.differences, *unlike])
    setting = f"not the paper's setting: {other}" if other else "the paper's setting, so far as its files tell"
    f1 = 100 * (training.scores["f1"] or 0)
    return f"{training.folder}: {training.arch}, {training.heading}, seed {training.seed}, F1 {f1:.2f}; {setting}"


def tell(found: Found) -> None:
    """Print what was found and what it is taken for."""
    lines = [told(training) for training in found.trainings]
    lines += [f"{folder}: a training that is not finished" for folder in found.unfinished]
    lines += [f"{path}: {kind}" for kind in ("fidelity", "captions", "silhouettes") for path in getattr(found, kind)]
    lines += found.repeated
    click.echo("\n".join(lines) or "No run was found.")


@click.command(cls=Command)
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--outdir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("results"),
    show_default=True,
    help="Folder for all that is written.",
)
@dry_run_option
def main(folders: tuple[Path, ...], outdir: Path, dry_run: bool) -> None:
    r"""Make the paper's tables from the runs below FOLDERS.

    \b
    Reads   run.json, test_metrics.json, fidelity.json, caption_metrics.json and silhouette.json, wherever they lie
            below the folders named, else below paper, segmentation, fidelity, captions and feature_maps
    Writes  results/tables.md, tables.tex (booktabs), results.json

    \b
    Example  python results_table.py
             python results_table.py paper --outdir paper/results
             python results_table.py demo --dry-run

    Trainings of one model, training data and setting that differ in their seed make one number. A number of another
    setting than the paper's is marked, and a table says in what it differs. --dry-run lists every run, and what it is
    taken for.

    A file that cannot be used is named and left out; the exit code is then 1. To resume, run the same command again. It
    begins anew, and what it writes is whole or not at all.
    """
    found = find(chosen(folders))
    tables = [] if dry_run else tables_of(found)
    if dry_run:
        tell(found)
    else:
        write(outdir, tables, found)
    for problem in found.problems:
        click.echo(f"Not used: {problem}", err=True)
    if found.problems:
        count = len(found.problems)
        raise UserError(f"{count} file{'s' * (count > 1)} could not be used (above); mend or delete, then run it again")


def chosen(folders: tuple[Path, ...]) -> list[Path]:
    """Return the folders to look in.

    Raises:
        UserError: one is missing, or none was named and none of the usual ones is there.
    """
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise UserError(f"{missing[0]} is not a folder; name one that holds runs")
    usual = [Path(name) for name in USUAL if Path(name).is_dir()]
    if not folders and not usual:
        raise UserError(f"none of {', '.join(USUAL)} is here; name the folders that hold the runs")
    return list(folders) or usual


def write(outdir: Path, tables: list[Table], found: Found) -> None:
    """Write the tables to `outdir` and print what was used."""
    source = published()["source"]
    unused: dict[str, Any] = {"unfinished": list(map(str, found.unfinished)), "problems": found.problems}
    text = markdown(tables, source)
    with sole_writer(outdir):
        remove_parts(outdir)
        write_text(outdir / "tables.md", text)
        write_text(outdir / "tables.tex", latex(tables, source))
        write_json(outdir / "results.json", as_json(tables, source, unused))
    click.echo(text)
    for line in found.repeated:
        click.echo(line)
    for folder in found.unfinished:
        click.echo(f"{folder} is a training that is not finished; it is left out")
    count = len(found.trainings)
    click.echo(f"Wrote {outdir}/tables.md, tables.tex, results.json, from {count} training{'s' * (count != 1)}")


if __name__ == "__main__":
    main()
