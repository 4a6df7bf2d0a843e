"""One figure of a labelled raster: its pixels, its map and the predicted labels side by side, with the legend."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from aras.command import Command
from aras.errors import UserError
from aras.figures import save_figure
from aras.legend import CLASS_NAMES, COLORS, NO_DATA, NUM_CLASSES, labels_from_codes
from aras.patches import linear_table
from aras.tiles import map_tile_of, tile_corner

if TYPE_CHECKING:
    from rasterio import DatasetReader


def image_of(source: "DatasetReader", reflectance_max: int) -> np.ndarray:
    """Return red, green and blue of a composite as (H, W, 3) uint8."""
    return linear_table(0, reflectance_max)[source.read((1, 2, 3))].transpose(1, 2, 0)


def map_of(raster: Path, maps: Path) -> Path:
    """Return the map file in `maps` in whose 3 degrees the tile that `raster` is named after lies.

    Raises:
        UserError: the name has no tile, or the map is not there.
    """
    corner = tile_corner(raster.name)
    if not corner:
        raise UserError(f"{raster} is not named after a tile, such as N41E031, so its map is not known")
    found = sorted(maps.glob(f"*{map_tile_of(*corner)}_Map.tif"))
    if not found:
        raise UserError(f"{maps} has no map of the tile {map_tile_of(*corner)}; check the folder")
    return found[0]


def map_under(source: "DatasetReader", path: Path) -> np.ndarray:
    """Return the labels (H, W) uint8 of the WorldCover map `path` at the pixels of `source`."""
    import rasterio
    from rasterio.windows import from_bounds

    with rasterio.open(path) as file:
        window = from_bounds(*source.bounds, file.transform)
        codes = file.read(1, window=window, out_shape=source.shape, boundless=True, fill_value=0)
    return labels_from_codes(codes, str(path))


def colored(labels: np.ndarray) -> np.ndarray:
    """Return `labels` (H, W) in the legend's colours, (H, W, 3) uint8; no data is white."""
    colors = np.full((256, 3), 255, dtype=np.uint8)
    colors[:NUM_CLASSES] = COLORS
    return colors[labels]


@click.command(cls=Command)
@click.argument("raster", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("labels", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--maps", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the WorldCover maps."
)
@click.option("--reflectance-max", default=3000, show_default=True, help="Reflectance x 10000 that becomes 255.")
@click.option("--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The PNG to write.")
def main(raster: Path, labels: Path, maps: Path, reflectance_max: int, output: Path) -> None:
    """Draw RASTER, its map, and the LABELS that segmentation_predict.py --raster gave it.

    Example: python runs/raster_sheet.py tile.tif labels.tif --maps worldcover_2021 --output raster.png

    To resume, run the same command again.
    """
    import rasterio
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    for path in (raster, labels):
        if not path.is_file():
            raise UserError(f"{path} is missing; check the path, or run the stage that writes it first")
    with rasterio.open(raster) as source, rasterio.open(labels) as predicted:
        image, truth, found = (
            image_of(source, reflectance_max),
            map_under(source, map_of(raster, maps)),
            predicted.read(1),
        )
    truth[found == NO_DATA] = NO_DATA
    height, width = found.shape
    stacked = width > 1.5 * height
    rows, columns = (3, 1) if stacked else (1, 3)
    side = 7.0 if stacked else 10.0
    figure = Figure(figsize=(side, side / columns * height / width * rows + 0.3 * rows + 0.4), layout="constrained")
    pictures = {"Sentinel-2": image, "map": colored(truth), "predicted": colored(found)}
    for axes, (title, picture) in zip(figure.subplots(rows, columns), pictures.items(), strict=True):
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(title, fontsize=11)
        axes.set_axis_off()
    present = [c for c in range(NUM_CLASSES) if (truth == c).any() or (found == c).any()]
    handles = [Patch(facecolor=COLORS[c] / 255, label=CLASS_NAMES[c]) for c in present]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    save_figure(output, figure)
    click.echo(f"Writes {output}: {width} x {height} pixels")


if __name__ == "__main__":
    main()
