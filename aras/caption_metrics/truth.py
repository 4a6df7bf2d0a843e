"""What is really in the images: class percentages from tables or masks, and where the classes lie."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aras.caption_metrics.reading import POSITIONS
from aras.caption_metrics.streams import KNOWN_SPLITS, Row
from aras.captions.layout import Layout
from aras.captions.percentages import read_percentages
from aras.errors import UserError
from aras.legend import NUM_CLASSES, read_mask
from aras.pairs import GENERATED


@dataclass(frozen=True)
class ShareTable:
    """Percentages by file name, in a few bytes a row.

    Attributes:
        names: (N,) bytes, sorted.
        shares: (N, 7) float32 percent.
    """

    names: np.ndarray
    shares: np.ndarray

    def of(self, names: list[str]) -> np.ndarray:
        """Return the percentages (B, 7) float32 of `names`, nan for those that it does not have."""
        wanted = np.array([name.encode() for name in names])
        place = np.minimum(np.searchsorted(self.names, wanted), len(self.names) - 1)
        return np.where((self.names[place] == wanted)[:, None], self.shares[place], np.float32(np.nan))


def read_share_table(path: Path) -> ShareTable:
    """Return the table of percentages at `path`."""
    names, shares = read_percentages(path)
    encoded = np.array([name.encode() for name in names])
    order = np.argsort(encoded)
    return ShareTable(encoded[order], shares[order].astype(np.float32))


@dataclass
class Truth:
    """The dataset, or a set of the user's own, against which captions are held.

    Attributes:
        data: the dataset's folder.
        percentages: one table for all captions, instead of those of the dataset.
        masks: one folder of masks for all captions, instead of those of the dataset.
        images: one folder of images for all captions, instead of those of the dataset.
    """

    data: Path
    percentages: Path | None = None
    masks: Path | None = None
    images: Path | None = None
    tables: dict[str, ShareTable | None] = field(default_factory=dict)

    def check(self, in_captions: bool) -> None:
        """Raise `UserError` when there is nothing to hold captions against, not even `in_captions`' own tables."""
        for option, folder in (("--masks", self.masks), ("--images", self.images)):
            if folder and not folder.is_dir():
                raise UserError(f"{option} {folder} is not a folder; check the path")
        if self.percentages:
            self.table("")
        elif not (self.masks or in_captions or self.data.is_dir()):
            raise UserError(
                f"--data {self.data} is not a folder; check it, or name --percentages or --masks of your own"
            )

    def table(self, split: str) -> ShareTable | None:
        """Return the percentages of `split`, read once; None when there are none."""
        split = drawn_from(split)
        if split not in self.tables:
            path = self.percentages or self.data / "class_percentages" / f"{split}.csv"
            wanted = self.percentages or (path.exists() and not self.masks)
            self.tables[split] = read_share_table(path) if wanted else None
        return self.tables[split]

    def shares_of(self, rows: list[Row]) -> np.ndarray:
        """Return the percentages (B, 7) float32 of the images of `rows`, nan for those that no table has.

        What the captions' own table says counts for images that the dataset's tables do not have.
        """
        nothing = (np.nan,) * NUM_CLASSES
        shares = np.array([row.shares or nothing for row in rows], dtype=np.float32)
        for split in KNOWN_SPLITS if not self.percentages else ("",):
            places = [place for place, row in enumerate(rows) if self.percentages or row.split in ("", split)]
            table = self.table(split) if places else None
            if table:
                found = table.of([rows[place].name for place in places])
                shares[places] = np.where(np.isnan(found), shares[places], found)
        return shares

    def mask_of(self, split: str, name: str) -> Path | None:
        """Return the mask file of an image, None when there is none."""
        folders = [self.masks] if self.masks else [self.data / drawn_from(s) / "masks" for s in splits_of(split)]
        return first_there(folders, name)

    def image_of(self, split: str, name: str) -> Path | None:
        """Return the image file, None when there is none."""
        folders = [self.images] if self.images else []
        if not folders:
            folders = [
                self.data / "train" / GENERATED if s == GENERATED else self.data / s / "images"
                for s in splits_of(split)
            ]
        return first_there(folders, name)


def drawn_from(split: str) -> str:
    """Return the split that has the masks and percentages of `split`: images of `generated` are drawn from train's."""
    return "train" if split == GENERATED else split


def splits_of(split: str) -> tuple[str, ...]:
    """Return the splits in which an image may lie."""
    return (split,) if split else KNOWN_SPLITS


def first_there(folders: Iterable[Path], name: str) -> Path | None:
    """Return the first file `name` of `folders`, None when none has it."""
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


@dataclass(frozen=True)
class Places:
    """Where the classes of one mask lie.

    Attributes:
        shares: (7,) percent.
        denser: (7, 9) whether a class is denser in a region of `POSITIONS` than in the whole image.
    """

    shares: np.ndarray
    denser: np.ndarray


def places_of(mask: Path) -> Places:
    """Return where the classes of the mask file lie.

    A class is at a position when it covers a larger share of that region than of the image: of a half for north, of a
    quarter for north-west, of the middle half of height and width for the centre.
    """
    layout = Layout(read_mask(mask))
    regions = np.stack([layout.region_shares[name] for name in POSITIONS], axis=1)  # (7, 9)
    return Places(layout.shares, regions > layout.shares[:, None])
