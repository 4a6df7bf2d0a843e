"""What an engine costs: the same rows of a tile cut by local processes, by a Dask cluster and by a Ray cluster.

Each has two workers on this machine. `start` is the time until the first of 200 items that do nothing is back, the rest
of them give items/s. Then the tile's units are cut twice: first by workers that import what they need, then again.

    python benchmarks/bench_engines.py [--rows N]
"""

import os
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

import click
from bench_dataset_creator import PATCH, make_tile
from clusters import cluster
from fake_world import image_path, map_path

from aras.cutting import Cutting, cut_named, units_of
from aras.engines import ENGINES, Engine, each_unordered
from aras.fencing import new_fence
from aras.patches import REFLECTANCE_MAX
from aras.rasters import Raster, raster_of

WORKERS = 2
NOTHINGS = 200


def seconds_of_nothing(engine: Engine) -> tuple[float, float]:
    """Return the seconds until the first of `NOTHINGS` items that do nothing is back, and until all are."""
    start = time.perf_counter()
    done = each_unordered(engine, abs, list(range(NOTHINGS)), WORKERS)
    next(done)
    first = time.perf_counter() - start
    assert len(list(done)) == NOTHINGS - 1
    return first, time.perf_counter() - start


def rate_of_cutting(engine: Engine, image: Raster, land_map: Raster, output: Path) -> float:
    """Return the patches/s at which the tile is cut into `output`."""
    cutting = Cutting(output, PATCH, "reflectance", REFLECTANCE_MAX, 0.9, "random", (0.8, 0.1, 0.1), 0, 8, 1, None)
    units = list(units_of(image, (land_map,), cutting))
    fence = new_fence(output / ".progress", os.getpid() if engine.is_local else None)
    work = partial(cut_named, cutting=cutting, fence=fence)
    start = time.perf_counter()
    failed = [reason for _, reason in each_unordered(engine, work, units, WORKERS, sees=(fence.path,)) if reason]
    assert not failed, failed[0]
    return sum(unit.size for unit in units) / (time.perf_counter() - start)


@click.command()
@click.option("--rows", default=8192, show_default=True, help="Pixel rows of the tile.")
def main(rows: int) -> None:
    """Print what each engine takes, and its patches/s beside those of local processes."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        print(f"{rows} x 12000 x 4 uint16, pixels from {make_tile(folder, rows)}; {WORKERS} workers each")
        image = raster_of(str(image_path(folder, "N41E031")), "N41E031", 3, "uint16", 1)
        land_map = raster_of(str(map_path(folder, "N39E030")), "N39E030", 1, "uint8", 3)
        print(f"{'':6}{'start':>8}{'items/s':>10}{'first patches/s':>17}{'then':>7}{'of local':>10}")
        rates: dict[str, float] = {}
        for kind in ENGINES:
            engine = Engine() if kind == "local" else stack.enter_context(cluster(kind, folder)).engine
            first, every = seconds_of_nothing(engine)
            cold, warm = (rate_of_cutting(engine, image, land_map, folder / f"{kind}{i}") for i in range(2))
            rates[kind] = warm
            items = (NOTHINGS - 1) / (every - first)
            print(f"{kind:6}{first:7.1f}s{items:10.0f}{cold:17.0f}{warm:7.0f}{warm / rates['local']:9.2f}x", flush=True)


if __name__ == "__main__":
    main()
