"""The rasters that are read, and the cloud-optimised GeoTIFFs that their labels become.

Finished rows go to a tiled GeoTIFF in a folder of work beside the output, and the whole of it becomes the output at the
end: a killed run leaves no half file, and begins again.
"""

import shutil
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from aras.errors import UserError
from aras.files import whole_file, write_text
from aras.labelling.raster_targets import Target
from aras.legend import CLASS_NAMES, COLORS, NO_DATA
from aras.rasters import GDAL_OPTIONS, one_line

CACHE = {"GDAL_CACHEMAX": GDAL_OPTIONS["GDAL_CACHEMAX"]}

RGB = [1, 2, 3]
"""The bands that are read: red, green, blue, in Sentinel-2 composites as in images; near infrared is the fourth."""

TILE_SIDE = 512
"""Of the blocks in which GeoTIFFs are stored."""

NO_CONFIDENCE = 0
"""In a map of confidence, pixels without data; the probability of the best of 7 classes is never as low."""


@contextmanager
def open_raster(path: Path) -> Iterator[Any]:
    """Yield the raster at `path`, open, after a look at what it holds.

    Raises:
        UserError: it is missing, cannot be opened, or is neither 8-bit RGB nor a composite of 16-bit reflectance.
    """
    import rasterio

    if not path.is_file():
        raise UserError(f"{path} is missing; check the path")
    with rasterio.Env(**CACHE), warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        try:
            file = rasterio.open(path)
        except rasterio.errors.RasterioIOError as error:
            raise UserError(f"{path} cannot be opened ({one_line(error)}); fetch or make it again") from None
    with rasterio.Env(**CACHE), file:
        kinds = set(file.dtypes[:3])
        if file.count < len(RGB) or kinds not in ({"uint8"}, {"uint16"}):
            raise UserError(
                f"{path} has {file.count} bands of {' and '.join(sorted(kinds))}; give red, green and blue of 8 bits,"
                " or of reflectance x 10000 in 16 bits (uint16)"
            )
        yield file


def has_reflectance(file: Any) -> bool:
    """Return whether an open raster holds reflectance rather than 8-bit colours."""
    return bool(file.dtypes[0] == "uint16")


def new_raster(path: Path, source: Any, is_labels: bool) -> Any:
    """Return a tiled GeoTIFF, open for writing, with the size and place of the open raster `source`."""
    import rasterio

    out = rasterio.open(
        path,
        "w",
        driver="GTiff",
        dtype="uint8",
        count=1,
        width=source.width,
        height=source.height,
        crs=source.crs,
        transform=source.transform,
        nodata=NO_DATA if is_labels else NO_CONFIDENCE,
        tiled=True,
        blockxsize=TILE_SIDE,
        blockysize=TILE_SIDE,
        compress="deflate",
        zlevel=1,
        bigtiff="if_safer",
    )
    out.set_band_description(1, "land cover" if is_labels else "confidence, 255 is a probability of 1")
    if is_labels:
        colors = {label: (*map(int, color), 255) for label, color in enumerate(COLORS)}
        out.write_colormap(1, colors | {NO_DATA: (0, 0, 0, 0)})
        out.update_tags(1, **{f"class_{label}": name for label, name in enumerate(CLASS_NAMES)})
    return out


@contextmanager
def failure_told(path: Path) -> Iterator[None]:
    """Turn what GDAL raises while it writes `path` into a `UserError`; a full disk is nearly always why."""
    import rasterio
    from rasterio._err import CPLE_BaseError  # what comes through where rasterio has no exception of its own

    try:
        yield
    except (rasterio.errors.RasterioError, CPLE_BaseError) as error:
        raise UserError(f"{path} cannot be written ({one_line(error)}); free some disk space") from None


class Unfinished:
    """The GeoTIFF to which rows are written, until it becomes the cloud-optimised one at `path`."""

    def __init__(self, path: Path, work: Path, source: Any, is_labels: bool):
        self.path, self.raw, self.is_labels = path, work / f"{path.name}.raw.tif", is_labels
        self.file = new_raster(self.raw, source, is_labels)
        self.checksum = 0

    def write(self, top: int, rows: np.ndarray) -> None:
        """Write the next `rows` (H, W) uint8, which begin at row `top`."""
        self.checksum = zlib.crc32(rows.tobytes(), self.checksum)
        with failure_told(self.path):
            self.file.write(rows, 1, window=((top, top + len(rows)), (0, rows.shape[1])))

    def close(self) -> None:
        """Have GDAL write what it still holds back."""
        with failure_told(self.path):
            self.file.close()

    def finish(self) -> None:
        """Have `path` be what was written, tiled and with overviews.

        GDAL does not say when a full disk cut a file short, so what it made is read again and compared.

        Raises:
            UserError: it could not be written.
        """
        import rasterio.shutil

        cog = self.raw.with_suffix(".cog.tif")
        options = {"compress": "deflate", "blocksize": TILE_SIDE, "bigtiff": "if_safer", "num_threads": "all_cpus"}
        self.close()
        with failure_told(self.path):
            resampling = "mode" if self.is_labels else "average"
            rasterio.shutil.copy(self.raw, cog, driver="COG", overview_resampling=resampling, **options)
            found = checksum_of(cog)
        if found != self.checksum:
            raise UserError(f"{self.path} was not written whole; free some disk space, then run the same command again")
        with whole_file(self.path) as part:
            cog.replace(part)


def checksum_of(path: Path) -> int:
    """Return the CRC-32 of all values of the raster at `path`, row after row."""
    import rasterio

    checksum = 0
    with rasterio.open(path) as file:
        for top in range(0, file.height, TILE_SIDE):
            window = ((top, min(top + TILE_SIDE, file.height)), (0, file.width))
            checksum = zlib.crc32(file.read(1, window=window).tobytes(), checksum)
    return checksum


@contextmanager
def unfinished_files(target: Target, source: Any, maps: bool) -> Iterator[list[Unfinished]]:
    """Yield the files to write rows to, labels first, and have them become the outputs when the body ends well."""
    import rasterio

    paths = [target.labels, target.confidence] if maps else [target.labels]
    with empty_folder(target.work), rasterio.Env(**CACHE), warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        files = [Unfinished(path, target.work, source, path == target.labels) for path in paths]
        for file in files:
            stack.callback(file.close)
        yield files
        write_text(target.names, text_of_names())
        for file in reversed(files):  # the labels last, which tell that all is done
            file.finish()


@contextmanager
def empty_folder(folder: Path) -> Iterator[None]:
    """Have `folder` be there, empty at first, while the body runs."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def text_of_names() -> str:
    """Return the names of the classes as GDAL's PAM format tells them; a GeoTIFF itself has no place for them."""
    names = "".join(f"      <Category>{escape(name)}</Category>\n" for name in CLASS_NAMES)
    return (
        '<PAMDataset>\n  <PAMRasterBand band="1">\n    <CategoryNames>\n'
        f"{names}    </CategoryNames>\n  </PAMRasterBand>\n</PAMDataset>\n"
    )
