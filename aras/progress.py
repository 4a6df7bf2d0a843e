"""Which work units of a dataset are finished, and what a run finds of an earlier one.

A unit is finished when its record is there, was made from the same files, and all images and masks that it tells of are
there too. Everything else is made again.
"""

import os
from pathlib import Path

from aras.errors import UserError
from aras.files import remove_parts
from aras.patches import remove_patch
from aras.splits import SPLITS
from aras.tables import unit_key, unit_records
from aras.tiles import patch_name

PROGRESS = ".progress"  # folder of the records of finished units, one CSV each


def record_of(name: str, output: Path) -> Path:
    """Return where the record of the unit `name` lies once it is finished."""
    return output / PROGRESS / f"{name}.csv"


def split_folders(output: Path) -> list[Path]:
    """Return the folders of images and masks that this stage writes."""
    return [output / split / kind for split in SPLITS for kind in ("images", "masks")]


def remove_all_parts(output: Path) -> None:
    """Delete what killed processes of this stage left half-written in `output`."""
    for folder in (output, output / PROGRESS, output / "class_percentages", *split_folders(output)):
        remove_parts(folder)


def check_own(output: Path) -> None:
    """Raise `UserError` if `output` holds images that this script did not make, such as the published ones."""
    for folder in split_folders(output):
        if not (output / "run.json").exists() and folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"{folder} has files that no run.json tells of; keep them, and name another --output")


def files_present(output: Path) -> set[str]:
    """Return the images and masks in the splits of `output` that are not empty, as `<split>/<images|masks>/<name>`."""
    found = set()
    for folder in split_folders(output):
        if folder.is_dir():
            where = folder.relative_to(output)
            found |= {f"{where}/{entry.name}" for entry in os.scandir(folder) if entry.stat().st_size}
    return found


def stale_units(key_of: dict[str, str], output: Path) -> list[Path]:
    """Return the records of units that are to be made again: their tiles or maps changed, or their files are gone.

    Args:
        key_of: what each unit of the tiles at hand is made from, by its name. Records of other tiles are left alone.
        output: the dataset's folder.
    """
    tiles = {name.rsplit("_", 1)[0] for name in key_of}
    own = [path for path in (output / PROGRESS).glob("*.csv") if path.stem.rsplit("_", 1)[0] in tiles]
    present = files_present(output) if own else set()
    return [path for path in own if not is_whole(path, key_of.get(path.stem), present)]


def is_whole(path: Path, key: str | None, present: set[str]) -> bool:
    """Return whether the unit recorded at `path` was made from what `key` stands for and all its files are there."""
    try:
        kept = [record for record in unit_records(path) if record.outcome in SPLITS]
        same = unit_key(path) == key
    except (ValueError, StopIteration):  # not one of our records
        return False
    return same and all(f"{r.outcome}/{kind}/{r.name}.png" in present for r in kept for kind in ("images", "masks"))


def drop_unit(path: Path, output: Path) -> None:
    """Delete the patches of the unit recorded at `path`, then the record."""
    names = [",".join(line.split(",")[:3]) for line in path.read_text().splitlines()[1:]]
    for tile, row, col in (name.split(",") for name in names if name.count(",") == 2):
        if row.isdigit() and col.isdigit():
            remove_patch(output, patch_name(tile, int(row), int(col)))
    path.unlink()
