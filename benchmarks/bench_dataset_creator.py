"""dataset_creator.py against the plain way and against the floor, on one whole 12000 x 12000 tile.

Plain: one process that opens the map for each patch, reads each window, and saves image and mask with Pillow.
Floor: both cores decode every stored block of the image and of the map under it, and encode every patch to PNG in
memory, and do nothing else.

    python benchmarks/bench_dataset_creator.py [--rows N]

Claims: at least 8x the plain way's patches/s without start-up and 5x with it, on 2 cores; within 1.5x of the floor;
under 600 MB a worker.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import click
import numpy as np
import rasterio
from fake_world import codes_of_degree, image_of_codes, image_path, map_path, write_tile
from joblib import Parallel, delayed
from PIL import Image

from aras.cutting import Cutting, Unit, cut_unit, units_of
from aras.legend import COLORS, NO_DATA, WATER, labels_from_codes
from aras.patches import REFLECTANCE_MAX, linear_table, png_of_image, png_of_mask
from aras.rasters import GDAL_OPTIONS, raster_of

SIDE = 12000
PATCH = 256


def real_pixels() -> tuple[np.ndarray, str]:
    """Return reflectance (4, H, W) uint16 of the sample region if `make demo` has made it, or of the fake world."""
    found = sorted((ROOT / "demo" / "S2RGB_2021").glob("*.tif"))
    if not found:
        rng = np.random.default_rng(0)
        return image_of_codes(rng, codes_of_degree(rng, 1536)), "the fake world (run make demo for real pixels)"
    with rasterio.open(found[0]) as file:
        pixels = file.read()
    return fill_gaps(pixels), found[0].name


def fill_gaps(pixels: np.ndarray) -> np.ndarray:
    """Return `pixels` with no-data replaced by random other pixels' rows, so that no patch is dropped."""
    whole = [
        pixels[:, y : y + 64, x : x + 64]
        for y in range(0, pixels.shape[1] - 63, 64)
        for x in range(0, pixels.shape[2] - 63, 64)
    ]
    whole = [block for block in whole if (block > 0).all()]
    side = int(len(whole) ** 0.5)
    return np.concatenate([np.concatenate(whole[r * side : (r + 1) * side], axis=2) for r in range(side)], axis=1)


def make_tile(folder: Path, rows: int) -> str:
    """Write the first `rows` pixel rows of an image tile and its map below `folder`; return where pixels are from."""
    pixels, source = real_pixels()
    mirrored = np.concatenate([pixels, pixels[:, ::-1]], axis=1)
    mirrored = np.concatenate([mirrored, mirrored[:, :, ::-1]], axis=2)
    repeat = (1, -(-rows // mirrored.shape[1]), -(-SIDE // mirrored.shape[2]))
    cog = {"blockxsize": 1024, "blockysize": 1024, "num_threads": "all_cpus"}
    write_tile(image_path(folder, "N41E031"), np.tile(mirrored, repeat)[:, :rows, :SIDE], 42, 31, SIDE, **cog)
    codes = codes_of_degree(np.random.default_rng(1), 2048)
    codes = np.tile(np.concatenate([codes, codes[::-1]]), (-(-rows // 4096), -(-SIDE // 2048)))[:rows, :SIDE]
    write_tile(map_path(folder, "N39E030"), codes[None], 42, 31, SIDE, **cog)
    return source


def plain(folder: Path, rows: int) -> int:
    """Cut the tile the plain way; return the number of patches written."""
    table = linear_table(0, REFLECTANCE_MAX)
    out = folder / "plain"
    for kind in ("images", "masks"):
        (out / kind).mkdir(parents=True)
    count = 0
    with rasterio.open(image_path(folder, "N41E031")) as image:
        for row in range(rows // PATCH):
            for col in range(SIDE // PATCH):
                window = rasterio.windows.Window(col * PATCH, row * PATCH, PATCH, PATCH)
                pixels = image.read([1, 2, 3], window=window)
                with rasterio.open(map_path(folder, "N39E030")) as land_map:
                    place = land_map.window(*image.window_bounds(window)).round_offsets().round_lengths()
                    labels = labels_from_codes(land_map.read(1, window=place))
                if (labels == NO_DATA).any() or not pixels.any() or (labels == WATER).mean() > 0.9:
                    continue
                name = f"N41E031_{row:03d}_{col:03d}.png"
                Image.fromarray(table[pixels].transpose(1, 2, 0)).save(out / "images" / name)
                Image.fromarray(COLORS[labels]).save(out / "masks" / name)
                count += 1
    return count


def decode_and_encode(path: str, map_path: str, top: int, patches: list[tuple[np.ndarray, np.ndarray]]) -> int:
    """Decode one row of stored blocks of both files and encode as many patches as lie in it."""
    with rasterio.Env(**GDAL_OPTIONS), rasterio.open(path) as image, rasterio.open(map_path) as land_map:
        window = ((top, min(top + 1024, image.height)), (0, SIDE))
        image.read([1, 2, 3], window=window)
        land_map.read(1, window=window)
        count = (window[0][1] - top) // PATCH * (SIDE // PATCH)
    for i in range(count):
        pixels, labels = patches[i % len(patches)]
        png_of_image(pixels)
        png_of_mask(labels)
    return count


def cut_and_weigh(unit: Unit, cutting: Cutting) -> int:
    """Cut a unit; return this worker's peak memory so far in bytes."""
    reason = cut_unit(unit, cutting)
    if reason:
        raise RuntimeError(reason)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024  # ru_maxrss would tell the parent's peak


def sample_patches(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return 46 patches of the tile, image (3, 256, 256) uint8 and labels (256, 256) uint8."""
    with rasterio.open(image_path(folder, "N41E031")) as image, rasterio.open(map_path(folder, "N39E030")) as land_map:
        strip = linear_table(0, REFLECTANCE_MAX)[image.read([1, 2, 3], window=((0, PATCH), (0, SIDE)))]
        labels = labels_from_codes(land_map.read(1, window=((0, PATCH), (0, SIDE))))
    cols = [slice(c * PATCH, (c + 1) * PATCH) for c in range(SIDE // PATCH)]
    return [(np.ascontiguousarray(strip[:, :, c]), np.ascontiguousarray(labels[:, c])) for c in cols]


@click.command()
@click.option("--rows", default=SIDE, show_default=True, help="Pixel rows of the tile.")
@click.option("--workers", default=os.cpu_count() or 1, show_default=True)
def main(rows: int, workers: int) -> None:
    """Print patches/s of the plain way, of ours and of the floor, and their ratios."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{rows} x {SIDE} x 4 uint16, pixels from {make_tile(folder, rows)}; {workers} workers")
        image = raster_of(str(image_path(folder, "N41E031")), "N41E031", 3, "uint16", 1)
        land_map = raster_of(str(map_path(folder, "N39E030")), "N39E030", 1, "uint8", 3)
        cutting = Cutting(
            folder / "ours", PATCH, "reflectance", REFLECTANCE_MAX, 0.9, "random", (0.8, 0.1, 0.1), 0, 8, 1, None
        )
        units = list(units_of(image, (land_map,), cutting))
        pool = Parallel(n_jobs=workers)
        scratch = replace(cutting, output=folder / "scratch")
        pool(delayed(cut_and_weigh)(unit, scratch) for unit in units[: 2 * workers])

        start = time.perf_counter()
        peak = max(pool(delayed(cut_and_weigh)(unit, cutting) for unit in units))
        ours = time.perf_counter() - start
        count = len(list((folder / "ours").glob("*/images/*.png")))

        patches = sample_patches(folder)
        start = time.perf_counter()
        pool(
            delayed(decode_and_encode)(image.path, land_map.path, top, patches) for top in range(0, rows - PATCH, 1024)
        )
        floor = time.perf_counter() - start

        options: dict[str, object] = {
            "s2": folder / "S2RGB_2021",
            "worldcover": folder / "worldcover_2021",
            "output": folder / "script",
        }
        options |= {"split": "random", "workers": workers}
        command = [sys.executable, "dataset_creator.py", *(f"--{name}={value}" for name, value in options.items())]
        start = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        script = time.perf_counter() - start

        start = time.perf_counter()
        plain_count = plain(folder, rows)
        slow = time.perf_counter() - start
        if plain_count != count:
            raise SystemExit(f"the plain way wrote {plain_count} patches, ours {count}")
        sizes = [sum(p.stat().st_size for p in (folder / w).glob("**/images/*.png")) for w in ("plain", "ours")]
        lines = [
            ("plain way", slow, ""),
            ("ours", ours, f"{slow / ours:.1f}x the plain way; {ours / floor:.2f}x the floor's time"),
            ("the whole script", script, f"{slow / script:.1f}x the plain way, start-up and tables included"),
            ("floor", floor, ""),
        ]
        for what, took, told in lines:
            print(f"{what:16} {count / took:8.1f} patches/s  {told}")
        print(f"images take {sizes[1] / sizes[0]:.2f} of the plain way's bytes; a worker's peak is {peak / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
