"""The figure of a labelled raster, from the fake world's tiles."""

import numpy as np
import rasterio
from click.testing import CliRunner
from PIL import Image

from aras.legend import labels_from_codes
from runs.raster_sheet import main, map_of, map_under


def test_raster_map_and_labels_stand_under_each_other(world, tmp_path):
    raster = min((world / "S2RGB_2021").glob("*.tif"))
    maps = world / "worldcover_2021"
    with rasterio.open(raster) as source:
        truth = map_under(source, map_of(raster, maps))
        profile = source.profile | {"count": 1, "dtype": "uint8"}
        with rasterio.open(map_of(raster, maps)) as file:
            row, col = file.index(*source.xy(5, 7))
            code = file.read(1)[row : row + 1, col : col + 1]
    assert truth[5, 7] == labels_from_codes(code)[0, 0]
    labels = tmp_path / "labels.tif"
    with rasterio.open(labels, "w", **profile) as file:
        file.write(truth, 1)
    output = tmp_path / "sheet.png"
    arguments = [str(word) for word in (raster, labels, "--maps", maps, "--output", output)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    with Image.open(output) as image:
        assert np.asarray(image.convert("RGB")).std() > 20
    raster_elsewhere = tmp_path / "unnamed.tif"
    raster_elsewhere.write_bytes(raster.read_bytes())
    for one, word in ((raster_elsewhere, "is not named after a tile"), (tmp_path / "gone.tif", "is missing")):
        result = CliRunner().invoke(main, [str(one), *arguments[1:]])
        assert result.exit_code == 1
        assert word in result.output
