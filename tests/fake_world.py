"""A small learnable world in the archive's own format, with the traps of the real one.

Two image tiles on either side of a map's edge: N41E031, whose map corner N39E030 is two degrees away in latitude (the
published search misses it), and N42E031 on the map N42E030. Every WorldCover code occurs; there is a strip without
labels, a corner without image, and a patch that is all water. Colours depend on the class, with noise and shading, so a
segmenter can learn the world.

    python tests/fake_world.py demo
"""

import sys
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import Affine

PER_DEGREE = 768  # pixels; the real tiles have 12000
CODES = np.array([10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100])
TYPICAL = np.array(
    [
        (400, 600, 350, 2800),
        (1100, 1050, 700, 2300),
        (900, 1100, 600, 3200),
        (1700, 1450, 1000, 2500),
        (2100, 1950, 1800, 2300),
        (2900, 2500, 2100, 3200),
        (8500, 8700, 8900, 7600),
        (250, 450, 600, 150),
        (700, 900, 600, 2500),
        (350, 550, 400, 2600),
        (1300, 1500, 1000, 2000),
    ],
    dtype=np.float32,
)  # (11, 4) reflectance x 10^4 in red, green, blue, near infrared, by code
SHARES = np.array([5, 2, 5, 5, 2, 2, 1, 3, 1, 1, 1])


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Return noise (size, size) float32 that varies over size / cells pixels."""
    import cv2

    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def codes_of_degree(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return map codes (size, size) uint8 of one degree: fields of every class, about `SHARES` of each."""
    height = smooth_noise(rng, size, 12)
    rank = np.argsort(np.argsort(height.ravel())).reshape(size, size) / size**2
    bounds = np.cumsum(SHARES / SHARES.sum())
    return CODES[np.minimum(np.searchsorted(bounds, rank, side="right"), len(CODES) - 1)].astype(np.uint8)


def image_of_codes(rng: np.random.Generator, codes: np.ndarray) -> np.ndarray:
    """Return reflectance x 10^4 (4, H, W) uint16 for map `codes` (H, W)."""
    size = codes.shape[0]
    typical = TYPICAL[np.searchsorted(CODES, codes)]  # (H, W, 4)
    shade = 1 + 0.08 * smooth_noise(rng, size, 40)[..., None]
    noise = 1 + 0.08 * rng.standard_normal((size, size, 4), dtype=np.float32)
    return np.clip(typical * shade * noise, 1, 10000).astype(np.uint16).transpose(2, 0, 1)


def write_tile(path: Path, pixels: np.ndarray, lat_north: float, lon_west: float, per_degree: int, **more) -> None:
    """Write `pixels` (bands, H, W) as a tiled GeoTIFF in the archive's format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = pixels.shape
    profile = {
        "driver": "GTiff",
        "crs": "EPSG:4326",
        "transform": Affine(1 / per_degree, 0, lon_west, 0, -1 / per_degree, lat_north),
        "count": bands,
        "height": height,
        "width": width,
        "dtype": pixels.dtype,
        "nodata": 0,
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "deflate",
        "predictor": 2 if pixels.dtype == np.uint16 else 1,
        "interleave": "pixel",
    } | more
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels)


def image_path(folder: Path, tile: str) -> Path:
    return folder / "S2RGB_2021" / f"ESA_WorldCover_10m_2021_v200_{tile}_S2RGBNIR.tif"


def map_path(folder: Path, tile: str) -> Path:
    return folder / "worldcover_2021" / f"ESA_WorldCover_10m_2021_v200_{tile}_Map.tif"


def make_world(folder: Path, per_degree: int = PER_DEGREE, seed: int = 0) -> None:
    """Write S2RGB_2021/ and worldcover_2021/ below `folder`."""
    rng = np.random.default_rng(seed)
    south, north = codes_of_degree(rng, per_degree), codes_of_degree(rng, per_degree)
    side = per_degree // 12
    south[3 * side : 4 * side, 5 * side : 6 * side] = 80  # an all-water patch
    images = [image_of_codes(rng, codes) for codes in (south, north)]
    images[0][:, : side + side // 2, : 2 * side] = 0  # a black corner, over a patch and a half
    south[:, 9 * side + 5 : 9 * side + 12] = 0  # a strip without labels
    # The maps as they lie: three degrees wide with the corner at a multiple of three, open sea where nothing is known.
    lower = np.full((3 * per_degree, 3 * per_degree), 80, dtype=np.uint8)
    lower[:per_degree, per_degree : 2 * per_degree] = south
    upper = np.full_like(lower, 80)
    upper[2 * per_degree :, per_degree : 2 * per_degree] = north
    write_tile(map_path(folder, "N39E030"), lower[None], 42, 30, per_degree)
    write_tile(map_path(folder, "N42E030"), upper[None], 45, 30, per_degree)
    for tile, top, pixels in (("N41E031", 42, images[0]), ("N42E031", 43, images[1])):
        write_tile(image_path(folder, tile), pixels, top, 31, per_degree)


if __name__ == "__main__":
    make_world(Path(sys.argv[1]))
