"""Which images of a split depend on each other because they are neighbours: blocks of patches.

Neighbouring patches look alike, so they are not independent draws, and an interval that took them for such would be too
narrow. Blocks are: what is drawn again when an interval is computed (see `aras.scoring`).
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aras.errors import UserError
from aras.tiles import patch_position

BLOCK_SIZE = 8
"""Width in patches of the blocks made from names alone: that of dataset_creator.py's by default."""


def block_name(tile: str, row: int, col: int, block_size: int) -> str:
    """Return the name of the block in which a patch lies, such as `N41E031_1_4`."""
    return f"{tile}_{row // block_size}_{col // block_size}"


@dataclass(frozen=True)
class Blocks:
    """The blocks of a split.

    Attributes:
        names: each block's name, sorted.
        tiles: each block's tile; `""` for an image that is no patch of a tile.
        index: (N,) int64 which block each image is in, in the images' order.
        source: where the blocks are from: `patches.csv`, `names`, or `images` when every image is its own.
    """

    names: list[str]
    tiles: list[str]
    index: np.ndarray
    source: str

    def __len__(self) -> int:
        return len(self.names)


def blocks_of(data: Path, names: np.ndarray) -> Blocks:
    """Return the blocks of the images `names` (N,) of the dataset folder `data`.

    They are those of `<data>/patches.csv`; where that is missing, tile, row and column are read from the names; an
    image whose name does not have them is a block of its own.

    Raises:
        UserError: patches.csv is no table.
    """
    listed = listed_blocks(data / "patches.csv")
    found: list[tuple[str, str]] = []  # block, tile
    sources = set()
    for name in names.tolist():
        position = patch_position(name)
        tile = position[0] if position else ""
        if name in listed:
            found.append((listed[name], tile))
            sources.add("patches.csv")
        elif position:
            found.append((block_name(*position, BLOCK_SIZE), tile))
            sources.add("names")
        else:
            found.append((name, tile))
            sources.add("images")
    blocks = sorted(set(found))
    place = {block: i for i, block in enumerate(blocks)}
    index = np.array([place[block] for block in found], dtype=np.int64)
    return Blocks([name for name, _ in blocks], [tile for _, tile in blocks], index, " and ".join(sorted(sources)))


def listed_blocks(path: Path) -> dict[str, str]:
    """Return each patch's block as the patches.csv at `path` has it; nothing if it is missing or of before it had any.

    Raises:
        UserError: it is no table.
    """
    if not path.exists():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if not {"name", "block"} <= set(rows.fieldnames or ()):
                return {}
            return {row["name"]: row["block"] for row in rows if row["block"]}
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{path} is not a table ({error}); make it again by dataset_creator.py, or move it away"
        ) from None
