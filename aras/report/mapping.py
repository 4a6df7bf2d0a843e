"""The map: where patches lie, coloured by split, over a mosaic of them.

A page can draw some ten thousand outlines. Of more patches, squares of neighbours are drawn instead, so what is held
and shown does not grow with the dataset.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from aras.errors import UserError
from aras.pairs import SUFFIX, image_size
from aras.report.colors import SET_COLORS
from aras.report.page import Footprint, Footprints
from aras.report.pictures import Store
from aras.report.places import Places
from aras.report.reading import Reader, numbers_of, plain_text
from aras.report.sampling import is_file_name, stems_in
from aras.report.thumbnails import image_or_problem, in_order
from aras.splits import SPLITS
from aras.tiles import PIXELS_PER_DEGREE, patch_position, tile_corner

MOST_OUTLINES = 20_000
MOST_TESSERAE = 4000  # images that are opened for the mosaic
KILOMETRES = 111.32  # in a degree of latitude
MOSAIC = 1400  # pixels, the longer side of the mosaic


class Place(NamedTuple):
    """A patch and its edges in degrees."""

    name: str
    split: str
    west: float
    south: float
    east: float
    north: float


@dataclass(frozen=True)
class Extent:
    """What all patches together cover.

    Attributes:
        count: how many there are.
        bounds: (west, south, east, north) in degrees.
        width: of one patch, in degrees.
        height: likewise.
    """

    count: int
    bounds: tuple[float, float, float, float]
    width: float
    height: float

    def side(self, most: int) -> int:
        """Return how many patches a side a square must hold for `most` squares to be enough."""
        if self.count <= most:
            return 1
        west, south, east, north = self.bounds
        columns, rows = (east - west) / self.width, (north - south) / self.height
        side = max(1, math.isqrt(round(columns * rows / most)))
        while math.ceil(columns / side) * math.ceil(rows / side) > most and side < max(columns, rows):
            side += 1
        return side


@dataclass
class Square:
    """Neighbouring patches that are shown as one.

    Attributes:
        first: the first of them.
        counts: how many of each split.
        card: the index of a card of one of them.
    """

    first: Place
    counts: Counter[str] = field(default_factory=Counter)
    card: int | None = None


Cell = tuple[int, int]  # column from the west, row from the north


def make_map(
    places: Places, cards: dict[tuple[str, str], int], store: Store, reader: Reader, workers: int
) -> list[Footprints]:
    """Return the map of the patches in one list, or an empty one when nothing tells where they lie.

    Args:
        places: where they are listed.
        cards: the index of the card of a patch, by split and name.
        store: where the mosaic goes.
        reader: takes notes of what cannot be read.
        workers: threads that open images.
    """
    extent = extent_of(places, reader)
    if extent is None:
        return []
    side, coarse = extent.side(MOST_OUTLINES), extent.side(MOST_TESSERAE)
    squares, *others = gather(places, reader, extent, list(dict.fromkeys((side, coarse))), cards)
    tesserae = others[0] if others else squares
    mosaic = draw_mosaic(places, extent, coarse, tesserae, reader, workers)
    outlines = [outline_of(square, cell, side, extent) for cell, square in sorted(squares.items())]
    told = f"{extent.count:,} patches of {extent.height * KILOMETRES:.2f} km from north to south"
    note = told if side == 1 else f"{told}; each square stands for up to {side * side} of them, in the colour of most"
    return [
        Footprints(
            "Patches by split",
            outlines,
            [split for split in SPLITS if any(outline.split == split for outline in outlines)],
            [SET_COLORS[split] for split in SPLITS if any(outline.split == split for outline in outlines)],
            store.picture(mosaic, "mosaic of the patches") if mosaic else None,
            extent.bounds,
            note,
        )
    ]


def patches(places: Places, reader: Reader) -> Iterator[Place]:
    """Yield where each patch lies: as patches.csv tells, or without one, as their names do."""
    path = places.data / "patches.csv"
    if not path.is_file():
        yield from named_patches(places)
        return
    for name, split, *edges in reader.rows(path, ("name", "split", "west", "south", "east", "north")):
        numbers = numbers_of(edges)
        if numbers is None or split not in SPLITS or not is_file_name(name):
            reader.note(f"{path} has a row that tells no place, {name!r}; it is left out")
            continue
        west, south, east, north = numbers
        if -360 <= west < east <= 360 and -90 <= south < north <= 90:
            yield Place(name, split, west, south, east, north)
        else:
            reader.note(f"{path} has a row whose place is not on Earth, {name!r}; it is left out")


def named_patches(places: Places) -> Iterator[Place]:
    """Yield where the patches of the published datasets lie, as tile, row and column in their names tell."""
    for split in SPLITS:
        folder = places.images(split)
        degrees = 0.0
        for name in stems_in(folder) if folder.is_dir() else ():
            position, corner = patch_position(name), tile_corner(name)
            if position is None or corner is None:
                continue
            degrees = degrees or width_of(folder / f"{name}{SUFFIX}") / PIXELS_PER_DEGREE
            west, north = corner[1] + position[2] * degrees, corner[0] + 1 - position[1] * degrees
            if degrees:
                yield Place(name, split, west, north - degrees, west + degrees, north)


def width_of(path: Path) -> int:
    """Return the width of the image `path` in pixels, 0 when it cannot be read."""
    try:
        return image_size(path)[1]
    except UserError:
        return 0


def extent_of(places: Places, reader: Reader) -> Extent | None:
    """Return what the patches cover, None when there are none."""
    count, west, south, east, north = 0, math.inf, math.inf, -math.inf, -math.inf
    width = height = math.inf
    for place in patches(places, reader):
        count += 1
        west, south = min(west, place.west), min(south, place.south)
        east, north = max(east, place.east), max(north, place.north)
        width, height = min(width, place.east - place.west), min(height, place.north - place.south)
    return Extent(count, (west, south, east, north), width, height) if count else None


def gather(
    places: Places, reader: Reader, extent: Extent, sides: list[int], cards: dict[tuple[str, str], int]
) -> list[dict[Cell, Square]]:
    """Return for each of `sides` the squares of that many patches a side, those that have any."""
    found: list[dict[Cell, Square]] = [{} for _ in sides]
    west, _, _, north = extent.bounds
    for place in patches(places, reader):
        column = ((place.west + place.east) / 2 - west) / extent.width
        row = (north - (place.south + place.north) / 2) / extent.height
        card = cards.get((place.split, place.name))
        for side, squares in zip(sides, found, strict=True):
            cell = int(column / side), int(row / side)
            square = squares.get(cell)
            if square is None:
                square = squares[cell] = Square(place)
            if place.name < square.first.name:
                square.first = place  # whatever the order of a folder
            square.counts[place.split] += 1
            square.card = card if square.card is None else square.card
    return found


def outline_of(square: Square, cell: Cell, side: int, extent: Extent) -> Footprint:
    """Return the outline of a square; of a single patch, its own."""
    count, first = square.counts.total(), square.first
    if side == 1:
        return Footprint(plain_text(first.name), first.split, *first[2:], square.card)
    split = max(SPLITS, key=lambda split: square.counts[split])
    name = first.name if count == 1 else f"{first.name} and {count - 1:,} more"
    return Footprint(plain_text(name), split, *edges_of(cell, side, extent), square.card)


def edges_of(cell: Cell, side: int, extent: Extent) -> tuple[float, float, float, float]:
    """Return (west, south, east, north) of the square at `cell`."""
    west, north = extent.bounds[0] + cell[0] * side * extent.width, extent.bounds[3] - cell[1] * side * extent.height
    edges = west, north - side * extent.height, west + side * extent.width, north
    return tuple(round(edge, 6) for edge in edges)  # type: ignore[return-value]


def draw_mosaic(
    places: Places, extent: Extent, side: int, squares: dict[Cell, Square], reader: Reader, workers: int
) -> Image.Image | None:
    """Return the mosaic (RGBA) over `extent.bounds`: in each square its first patch, elsewhere nothing.

    None when there is no image to make it of.
    """
    west, south, east, north = extent.bounds
    paths = (places.images(square.first.split) / f"{square.first.name}{SUFFIX}" for square in squares.values())
    width = next((width for width in map(width_of, paths) if width), None)
    if width is None:
        return None
    scale = min(MOSAIC / max(east - west, north - south), width / extent.width)
    size = max(1, round((east - west) * scale)), max(1, round((north - south) * scale))
    mosaic = Image.new("RGBA", size)

    def tessera(cell: Cell) -> tuple[Image.Image | None, tuple[int, int], str]:
        place = squares[cell].first
        edges = place[2:] if side == 1 else edges_of(cell, side, extent)
        left, right = round((edges[0] - west) * scale), round((edges[2] - west) * scale)
        top, bottom = round((north - edges[3]) * scale), round((north - edges[1]) * scale)
        pixels, problem = image_or_problem(places.images(place.split) / f"{place.name}{SUFFIX}")
        if pixels is None or right <= left or bottom <= top:
            return None, (left, top), problem
        image = Image.fromarray(pixels).resize((right - left, bottom - top), Image.Resampling.BOX, reducing_gap=3.0)
        return image, (left, top), ""

    found = in_order(tessera, sorted(squares), workers)
    for image, corner, problem in tqdm(found, "mosaic", total=len(squares), disable=None, leave=False):
        if image:
            mosaic.paste(image, corner)
        if problem:
            reader.note(problem)
    return mosaic
