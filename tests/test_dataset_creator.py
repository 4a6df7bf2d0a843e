import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from fake_world import CODES, PER_DEGREE, image_path, make_world, map_path, write_tile
from PIL import Image

import dataset_creator
from aras.files import sole_writer
from aras.legend import CLASS_NAMES, COLORS, read_mask
from aras.patches import REFLECTANCE_MAX, png_of_image
from aras.tiles import tile_corner

ROOT = Path(__file__).resolve().parent.parent
REAL = Path(os.environ.get("ARAS_REAL_DATA", ROOT.parent / "shared" / "real"))
REAL_MAP = REAL / "ESA_WorldCover_10m_2021_v200_N00E006_Map.tif"
SIZE = 64


def create(run, world, output, *more):
    arguments = ("--s2", world / "S2RGB_2021", "--worldcover", world / "worldcover_2021", "--output", output)
    return run(dataset_creator.main, *arguments, "--patch-size", SIZE, "--block-size", 3, "--workers", 1, *more)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def content(folder):
    """Every file below a folder by relative name, without the run's own story and the stamps of its input."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "run.json")
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if p.parent.name != ".progress"}


@pytest.fixture(scope="module")
def dataset(world, tmp_path_factory):
    from click.testing import CliRunner

    output = tmp_path_factory.mktemp("dataset") / "ARAS400k"
    arguments = ["--s2", world / "S2RGB_2021", "--worldcover", world / "worldcover_2021", "--output", output]
    arguments += ["--patch-size", SIZE, "--block-size", 3, "--workers", 2]
    result = CliRunner().invoke(dataset_creator.main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return output


def source_of(world, name):
    """The reflectance (3, 64, 64) and codes (64, 64) under a patch, cut here by degrees, not by the code under test."""
    tile, row, col = name.split("_")
    with rasterio.open(image_path(world, tile)) as image:
        box = rasterio.windows.Window(int(col) * SIZE, int(row) * SIZE, SIZE, SIZE)
        pixels, bounds = image.read([1, 2, 3], window=box), image.window_bounds(box)
    with rasterio.open(map_path(world, "N39E030" if tile == "N41E031" else "N42E030")) as land_map:
        codes = land_map.read(1, window=land_map.window(*bounds).round_offsets().round_lengths())
    return pixels, codes


def test_every_table_and_folder_tells_the_same_patches(dataset):
    patches = rows_of(dataset / "patches.csv")
    assert len({p["name"] for p in patches}) == len(patches) > 200
    for split in ("train", "val", "test"):
        names = [f"{p['name']}.png" for p in patches if p["split"] == split]
        assert names
        for kind in ("images", "masks"):
            assert sorted(p.name for p in (dataset / split / kind).iterdir()) == names
        assert [row["filename"] for row in rows_of(dataset / "class_percentages" / f"{split}.csv")] == names
    skipped = rows_of(dataset / "skipped.csv")
    assert len(patches) + len(skipped) == 2 * 12 * 12
    assert {row["reason"] for row in skipped} == {"nodata", "black", "water", "buffer"}
    features = json.loads((dataset / "patches.geojson").read_text())["features"]
    assert [f["properties"]["name"] for f in features] == [p["name"] for p in patches]


def test_both_tiles_find_their_map_also_two_degrees_away(dataset):
    assert {row["tile"] for row in rows_of(dataset / "patches.csv")} == {"N41E031", "N42E031"}


def test_pixels_and_labels_are_those_under_the_name(dataset, world):
    for patch in rows_of(dataset / "patches.csv")[::17]:
        pixels, codes = source_of(world, patch["name"])
        with Image.open(dataset / patch["split"] / "images" / f"{patch['name']}.png") as image:
            assert image.mode == "RGB"
            grey = np.asarray(image)
        wanted = np.clip(np.rint(pixels.astype(float) * 255 / REFLECTANCE_MAX), 0, 255)
        assert (grey == wanted.transpose(1, 2, 0)).all()
        labels = read_mask(dataset / patch["split"] / "masks" / f"{patch['name']}.png")
        class_of = dict(zip(CODES.tolist(), (0, 1, 2, 3, 4, 5, 5, 6, 2, 0, 2), strict=True))
        assert (labels == np.vectorize(class_of.get)(codes)).all()


def test_footprints_lie_where_the_pixels_do(dataset, world):
    for patch in rows_of(dataset / "patches.csv")[::31]:
        with rasterio.open(image_path(world, patch["tile"])) as image:
            box = rasterio.windows.Window(int(patch["col"]) * SIZE, int(patch["row"]) * SIZE, SIZE, SIZE)
            wanted = image.window_bounds(box)
        assert np.allclose([float(patch[k]) for k in ("west", "south", "east", "north")], wanted, atol=1e-7)


def test_percentages_are_those_of_the_masks(dataset):
    for row in rows_of(dataset / "class_percentages" / "val.csv"):
        labels = read_mask(dataset / "val" / "masks" / row["filename"])
        wanted = 100 * np.bincount(labels.ravel(), minlength=7) / labels.size
        assert np.abs(np.array([float(row[name]) for name in CLASS_NAMES]) - wanted).max() <= 0.005


def test_skipped_patches_are_skipped_for_their_reason(dataset, world):
    reasons = {row["name"]: row["reason"] for row in rows_of(dataset / "skipped.csv")}
    for name, reason in reasons.items():
        pixels, codes = source_of(world, name)
        assert (reason == "nodata") == bool((codes == 0).any())
        if reason == "black":
            assert not pixels.any()
        if reason == "water":
            assert (codes == 80).mean() > 0.9


def test_masks_show_the_published_colors(dataset):
    path = next((dataset / "train" / "masks").iterdir())
    with Image.open(path) as image:
        assert image.mode == "P"
        assert (np.asarray(image.convert("RGB")) == COLORS[np.asarray(image)]).all()


def test_same_bytes_whatever_the_number_of_workers(run, world, dataset, tmp_path):
    assert create(run, world, tmp_path / "one").exit_code == 0
    assert content(tmp_path / "one") == content(dataset)


def test_an_interrupted_run_goes_on_to_the_same_bytes(run, world, dataset, tmp_path):
    output = tmp_path / "ARAS400k"
    assert create(run, world, output).exit_code == 0
    for record in sorted((output / ".progress").iterdir())[1:]:
        record.unlink()
    for path in [*output.rglob("N42*.png"), output / "patches.csv"]:
        path.unlink()
    (output / "train" / "images" / "N42E031_000_000.png.part").write_bytes(b"half")
    assert create(run, world, output).exit_code == 0
    assert content(output) == content(dataset)


def test_a_finished_run_writes_no_pixel_again(run, world, tmp_path):
    output = tmp_path / "ARAS400k"
    create(run, world, output)
    before = {p: p.stat().st_mtime_ns for p in output.rglob("*.png")}
    result = create(run, world, output)
    assert "already" in result.output
    assert {p: p.stat().st_mtime_ns for p in output.rglob("*.png")} == before


def test_adding_a_tile_moves_no_patch(run, world, dataset, tmp_path):
    part = tmp_path / "part"
    shutil.copytree(world / "worldcover_2021", part / "worldcover_2021")
    (part / "S2RGB_2021" / "nested").mkdir(parents=True)
    shutil.copy(image_path(world, "N41E031"), part / "S2RGB_2021" / "nested")
    assert create(run, part, tmp_path / "out").exit_code == 0
    alone = [row for row in rows_of(tmp_path / "out" / "patches.csv")]
    assert alone == [row for row in rows_of(dataset / "patches.csv") if row["tile"] == "N41E031"]
    shutil.copy(image_path(world, "N42E031"), part / "S2RGB_2021")
    assert create(run, part, tmp_path / "out").exit_code == 0
    assert content(tmp_path / "out") == content(dataset)


def test_a_changed_tile_or_a_new_map_is_cut_again(run, world, dataset, tmp_path):
    part = tmp_path / "part"
    shutil.copytree(world, part)
    map_path(part, "N42E030").rename(tmp_path / "away.tif")
    assert create(run, part, tmp_path / "out").exit_code == 0
    assert {row["tile"] for row in rows_of(tmp_path / "out" / "patches.csv")} == {"N41E031"}
    (tmp_path / "away.tif").rename(map_path(part, "N42E030"))
    result = create(run, part, tmp_path / "out")
    assert result.exit_code == 0
    assert "144 positions to do" in result.output
    assert content(tmp_path / "out") == content(dataset)
    with rasterio.open(image_path(part, "N42E031")) as image:
        pixels = image.read()
    write_tile(image_path(part, "N42E031"), pixels // 2 + 1, 43, 31, PER_DEGREE, blockxsize=128, blockysize=128)
    assert create(run, part, tmp_path / "out").exit_code == 0
    assert create(run, part, tmp_path / "new").exit_code == 0
    assert content(tmp_path / "out") == content(tmp_path / "new") != content(dataset)


def test_lost_and_emptied_files_are_made_again(run, world, dataset, tmp_path):
    create(run, world, tmp_path / "out")
    images = sorted((tmp_path / "out" / "train" / "images").iterdir())
    images[0].unlink()
    images[-1].write_bytes(b"")  # as a power cut may leave it
    (tmp_path / "out" / ".progress" / "N41E031_000.csv").write_text("no record of ours\n")
    assert create(run, world, tmp_path / "out").exit_code == 0
    assert content(tmp_path / "out") == content(dataset)


def test_a_dataset_of_another_origin_is_left_alone(run, world, tmp_path):
    images = tmp_path / "out" / "train" / "images"
    images.mkdir(parents=True)
    (images / "N41E031_000_002.png").write_bytes(b"published")
    result = create(run, world, tmp_path / "out")
    assert result.exit_code == 1
    assert "no run.json tells of" in result.output
    assert [p.read_bytes() for p in images.iterdir()] == [b"published"]


def test_half_written_files_of_other_stages_are_left_alone(run, world, tmp_path):
    other = tmp_path / "out" / "synth" / "masks" / "000000.png.part"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"half")
    assert create(run, world, tmp_path / "out").exit_code == 0
    assert other.read_bytes() == b"half"


def test_names_endings_and_links_of_every_kind_are_found(run, world, dataset, tmp_path):
    part = tmp_path / "part"
    (part / "S2RGB_2021").mkdir(parents=True)
    shutil.copy(image_path(world, "N41E031"), part / "S2RGB_2021")
    shutil.copy(image_path(world, "N42E031"), part / "S2RGB_2021" / "mine_N42E031.TIF")
    (part / "worldcover_2021").symlink_to(world / "worldcover_2021")
    (part / "more").mkdir()
    (part / "more" / "linked").symlink_to(part / "S2RGB_2021")
    quality = map_path(part, "N42E030").name.replace("_Map", "_InputQuality")
    shutil.copy(map_path(world, "N42E030"), part / "S2RGB_2021" / quality)
    assert create(run, part, tmp_path / "out", "--s2", part / "more").exit_code == 0
    assert content(tmp_path / "out") == content(dataset)


def test_random_split_keeps_what_the_buffer_dropped(run, world, tmp_path):
    assert create(run, world, tmp_path / "out", "--split", "random").exit_code == 0
    assert {row["reason"] for row in rows_of(tmp_path / "out" / "skipped.csv")} == {"nodata", "black", "water"}


def test_as_published_gives_the_published_pixels_and_loses_the_same_tile(run, world, tmp_path):
    assert create(run, world, tmp_path / "out", "--as-published").exit_code == 0
    patches = rows_of(tmp_path / "out" / "patches.csv")
    assert {row["tile"] for row in patches} == {"N42E031"}
    lost = [row for row in rows_of(tmp_path / "out" / "skipped.csv") if row["name"].startswith("N41E031")]
    assert len(lost) == 144
    assert {row["reason"] for row in lost} == {"no_map"}
    for patch in patches[::23]:
        pixels, _ = source_of(world, patch["name"])
        wanted = (pixels.astype(np.float64) / pixels.max() * 255).astype(np.uint8).transpose(1, 2, 0)
        with Image.open(tmp_path / "out" / patch["split"] / "images" / f"{patch['name']}.png") as image:
            assert (np.asarray(image) == wanted).all()


def test_as_published_refuses_what_contradicts_it(run, world, tmp_path):
    result = create(run, world, tmp_path / "out", "--as-published", "--stretch", "percentile")
    assert result.exit_code == 2
    assert "--stretch" in result.output


def test_percentile_stretch_is_one_for_the_tile(run, world, tmp_path):
    assert create(run, world, tmp_path / "out", "--stretch", "percentile").exit_code == 0
    with rasterio.open(image_path(world, "N42E031")) as image:
        pixels = image.read([1, 2, 3])
    low, high = np.percentile(pixels[:, (pixels > 0).any(axis=0)], (2, 98))
    for patch in [p for p in rows_of(tmp_path / "out" / "patches.csv") if p["tile"] == "N42E031"][::40]:
        wanted = np.clip(np.rint((source_of(world, patch["name"])[0] - low) / (high - low) * 255), 0, 255)
        with Image.open(tmp_path / "out" / patch["split"] / "images" / f"{patch['name']}.png") as image:
            assert np.abs(np.asarray(image).astype(int) - wanted.transpose(1, 2, 0)).max() <= 1


def small_tile(world, tile, pixels, per_degree=256, **more):
    """Write an image tile whose north-west corner is the tile's."""
    lat, lon = tile_corner(tile)
    write_tile(image_path(world, tile), pixels, lat + 1, lon, per_degree, **more)


def small_world(folder, tile="S01W001", map_tile="S03W003", per_degree=256):
    """One degree anywhere on Earth with its map; every label differs from patch to patch."""
    rng = np.random.default_rng(5)
    small_tile(folder, tile, rng.integers(1, 5000, (4, per_degree, per_degree), dtype=np.uint16), per_degree)
    codes = CODES[rng.integers(0, 7, (3 * per_degree // 8, 3 * per_degree // 8))].astype(np.uint8)
    codes = codes.repeat(8, axis=0).repeat(8, axis=1)
    lat, lon = tile_corner(map_tile)
    write_tile(map_path(folder, map_tile), codes[None], lat + 3, lon, per_degree)
    return codes


@pytest.mark.parametrize(
    ("tile", "map_tile"),
    [(f"{'S' if lat < 0 else 'N'}{abs(lat):02d}{'W' if lon < 0 else 'E'}{abs(lon):03d}", name)
     for name, south, west in [("S03W003", -3, -3), ("N39E030", 39, 30)]
     for lat in range(south, south + 3) for lon in range(west, west + 3)],
)  # fmt: skip
def test_all_nine_offsets_in_two_hemispheres(run, tmp_path, tile, map_tile):
    codes = small_world(tmp_path, tile, map_tile)
    assert create(run, tmp_path, tmp_path / "out", "--split", "random").exit_code == 0
    patches = rows_of(tmp_path / "out" / "patches.csv")
    assert len(patches) == 16
    (lat, lon), (south, west) = tile_corner(tile), tile_corner(map_tile)
    top, left = (south + 3 - lat - 1) * 256 + 64, (lon - west) * 256 + 128  # of the patch at row 1, column 2
    split = next(p["split"] for p in patches if p["name"] == f"{tile}_001_002")
    labels = read_mask(tmp_path / "out" / split / "masks" / f"{tile}_001_002.png")
    class_of = dict(zip(CODES.tolist(), (0, 1, 2, 3, 4, 5, 5, 6, 2, 0, 2), strict=True))
    assert (labels == np.vectorize(class_of.get)(codes[top : top + 64, left : left + 64])).all()


def test_a_patch_over_two_maps_is_put_together_from_both(run, tmp_path):
    codes = small_world(tmp_path, "N40E031", "N39E030")
    whole = create(run, tmp_path, tmp_path / "whole", "--split", "random")
    map_path(tmp_path, "N39E030").unlink()
    cut = 256 + 100  # in the middle of the second column of patches
    write_tile(map_path(tmp_path, "N39E030"), codes[None, :, :cut], 42, 30, 256)
    write_tile(map_path(tmp_path, "N39E031"), codes[None, :, cut:], 42, 30 + cut / 256, 256)
    parts = create(run, tmp_path, tmp_path / "parts", "--split", "random")
    assert whole.exit_code == parts.exit_code == 0
    assert content(tmp_path / "whole") == content(tmp_path / "parts")


def test_a_coarser_map_that_nests_is_read_nearest_neighbour(run, tmp_path):
    codes = small_world(tmp_path, "N40E031", "N39E030")
    write_tile(map_path(tmp_path, "N39E030"), codes[None, ::4, ::4], 42, 30, 64)
    assert create(run, tmp_path, tmp_path / "coarse", "--split", "random").exit_code == 0
    write_tile(map_path(tmp_path, "N39E030"), codes[None], 42, 30, 256)
    assert create(run, tmp_path, tmp_path / "fine", "--split", "random").exit_code == 0
    assert content(tmp_path / "coarse") == content(tmp_path / "fine")


def test_part_of_a_tile_gives_the_same_names_and_pixels(run, tmp_path):
    small_world(tmp_path, "N40E031", "N39E030")
    assert create(run, tmp_path, tmp_path / "whole", "--split", "random").exit_code == 0
    with rasterio.open(image_path(tmp_path, "N40E031")) as image:
        pixels = image.read()
    write_tile(image_path(tmp_path, "N40E031"), pixels[:, 50:, 64:], 41 - 50 / 256, 31 + 64 / 256, 256)
    assert create(run, tmp_path, tmp_path / "part", "--split", "random").exit_code == 0
    part, whole = content(tmp_path / "part"), content(tmp_path / "whole")
    pngs = [name for name in part if name.endswith(".png")]
    assert len(pngs) == 2 * 9  # rows 1 to 3 of columns 1 to 3
    assert all(part[name] == whole[name] for name in pngs)


def test_bbox_keeps_the_patches_that_touch_it(run, tmp_path):
    small_world(tmp_path, "N40E031", "N39E030")
    box = ("--bbox", 31.25, 40.1, 31.3, 40.5)
    assert create(run, tmp_path, tmp_path / "out", "--split", "random", *box).exit_code == 0
    names = [row["name"] for row in rows_of(tmp_path / "out" / "patches.csv")]
    assert names == ["N40E031_002_001", "N40E031_003_001"]


def test_a_footprint_as_box_gives_that_patch(run, world, dataset, tmp_path):
    for patch in rows_of(dataset / "patches.csv")[::40]:
        box = [patch[side] for side in ("west", "south", "east", "north")]
        assert create(run, world, tmp_path / patch["name"], "--split", "random", "--bbox", *box).exit_code == 0
        assert [row["name"] for row in rows_of(tmp_path / patch["name"] / "patches.csv")] == [patch["name"]]


def test_limit_and_dry_run(run, world, tmp_path):
    result = create(run, world, tmp_path / "out", "--limit", 20, "--dry-run")
    assert result.exit_code == 0
    assert "24 patch positions" in result.output
    assert not (tmp_path / "out").exists()
    assert create(run, world, tmp_path / "out", "--limit", 20).exit_code == 0
    tables = [rows_of(tmp_path / "out" / name) for name in ("patches.csv", "skipped.csv")]
    assert sum(map(len, tables)) == 24


# ------------------------------------------------------------------------------------------------------- bad input


def broken_world(tmp_path, world):
    shutil.copytree(world, tmp_path / "world")
    return tmp_path / "world"


def test_a_truncated_tile_is_named_and_the_rest_is_done(run, world, dataset, tmp_path):
    broken = broken_world(tmp_path, world)
    path = image_path(broken, "N41E031")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    result = create(run, broken, tmp_path / "out")
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    failures = rows_of(tmp_path / "out" / "failures.csv")
    assert failures
    assert all(str(path) in row["reason"] and "download it again" in row["reason"] for row in failures)
    assert len(list((tmp_path / "out").rglob("N42E031*.png"))) == len(list(dataset.rglob("N42E031*.png")))
    told = {row["name"] for row in rows_of(tmp_path / "out" / "patches.csv")}
    assert {p.stem for p in (tmp_path / "out").rglob("*.png")} == told  # no patch of a failed unit stays behind
    path.write_bytes(whole)
    assert create(run, broken, tmp_path / "out").exit_code == 0
    assert content(tmp_path / "out") == content(dataset)


@pytest.mark.parametrize("kind", ["image", "map"])
def test_a_file_that_is_no_tiff_is_named(run, world, tmp_path, kind):
    broken = broken_world(tmp_path, world)
    path = image_path(broken, "N41E031") if kind == "image" else map_path(broken, "N39E030")
    path.write_text("<html>please log in</html>")
    result = create(run, broken, tmp_path / "out")
    assert result.exit_code == 1
    assert str(path) in result.output
    assert {row["tile"] for row in rows_of(tmp_path / "out" / "patches.csv")} == {"N42E031"}


def test_another_crs_is_an_error_that_names_both_files(run, tmp_path):
    small_world(tmp_path, "N40E031", "N39E030")
    with rasterio.open(map_path(tmp_path, "N39E030"), "r+") as file:
        file.crs = "EPSG:32636"
    result = create(run, tmp_path, tmp_path / "out")
    assert result.exit_code == 1
    assert str(image_path(tmp_path, "N40E031")) in result.output
    assert str(map_path(tmp_path, "N39E030")) in result.output


def test_pixels_that_do_not_nest_are_an_error_that_names_both_files(run, tmp_path):
    codes = small_world(tmp_path, "N40E031", "N39E030")
    write_tile(map_path(tmp_path, "N39E030"), codes[None, :576, :576], 42, 30, 192)
    result = create(run, tmp_path, tmp_path / "out")
    assert result.exit_code == 1
    assert str(image_path(tmp_path, "N40E031")) in result.output
    assert str(map_path(tmp_path, "N39E030")) in result.output


def test_a_tile_that_lies_elsewhere_than_its_name_says_is_named(run, tmp_path):
    small_world(tmp_path, "N40E031", "N39E030")
    for right, wrong in [(image_path(tmp_path, "N40E031"), image_path(tmp_path, "N40E030")),
                         (map_path(tmp_path, "N39E030"), map_path(tmp_path, "N40E031"))]:  # fmt: skip
        right.rename(wrong)
        result = create(run, tmp_path, tmp_path / wrong.name)
        if "_Map" not in wrong.name:
            assert result.exit_code == 1
            assert f"{wrong} does not lie where its name says" in result.output
        else:  # a map may begin anywhere, as long as it reaches into the cell of its name
            assert result.exit_code == 0
        wrong.rename(right)
    map_path(tmp_path, "N39E030").rename(map_path(tmp_path, "N38E029"))
    write_tile(map_path(tmp_path, "N38E029"), np.full((1, 64, 64), 10, dtype=np.uint8), 20, 10, 256)
    result = create(run, tmp_path, tmp_path / "out")
    assert result.exit_code == 1
    assert "N38E029_Map.tif does not lie where its name says" in result.output


def test_two_resolutions_do_not_go_into_one_dataset(run, tmp_path):
    small_world(tmp_path, "N40E031", "N39E030")
    small_tile(tmp_path, "N40E032", np.ones((4, 512, 512), dtype=np.uint16), 512)
    result = create(run, tmp_path, tmp_path / "out")
    assert result.exit_code == 1
    assert "pixels of different size" in result.output


def test_no_whole_patch_is_an_error_and_leaves_nothing(run, tmp_path):
    small_world(tmp_path, "N40E031", "N39E030")
    for more in (("--patch-size", 300), ("--bbox", 10, 10, 11, 11)):
        result = create(run, tmp_path, tmp_path / "out", *more)
        assert result.exit_code == 1
        assert "--bbox, --patch-size" in result.output
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("option", "value"), [("--fractions", ("nan", 0.5, 0.5)), ("--max-water", ("nan",))])
def test_not_a_number_is_refused(run, world, tmp_path, option, value):
    result = create(run, world, tmp_path / "out", option, *value)
    assert result.exit_code == 2
    assert option in result.output


def test_off_the_grid_wrong_type_and_unknown_code_are_named(run, tmp_path):
    codes = small_world(tmp_path, "N40E031", "N39E030")
    image, land_map = image_path(tmp_path, "N40E031"), map_path(tmp_path, "N39E030")
    whole = image.read_bytes()
    write_tile(image, np.ones((4, 256, 256), dtype=np.uint16), 41 + 0.3 / 256, 31, 256)
    assert "whole pixels" in create(run, tmp_path, tmp_path / "a").output
    write_tile(image, np.ones((4, 256, 256), dtype=np.uint8), 41, 31, 256, predictor=1)
    assert "uint16" in create(run, tmp_path, tmp_path / "b").output
    image.write_bytes(whole)
    codes[300, 300] = 33
    write_tile(land_map, codes[None], 42, 30, 256)
    result = create(run, tmp_path, tmp_path / "c")
    assert result.exit_code == 1
    assert "33" in result.output
    assert str(land_map) in result.output


def test_empty_missing_and_doubled_input_is_one_line(run, world, tmp_path):
    (tmp_path / "empty").mkdir()
    for bad in ("empty", "absent"):
        for option in ("--s2", "--worldcover"):
            result = create(run, world, tmp_path / "out", option, tmp_path / bad)
            assert result.exit_code == 1
            assert str(tmp_path / bad) in result.output
            assert result.output.count("\n") == 1
    broken = broken_world(tmp_path, world)
    (broken / "S2RGB_2021" / "again").mkdir()
    shutil.copy(image_path(broken, "N41E031"), broken / "S2RGB_2021" / "again")
    assert "same tile" in create(run, broken, tmp_path / "out").output


def test_nothing_kept_is_an_error(run, tmp_path):
    small_world(tmp_path, "N40E031", "N39E030")
    write_tile(image_path(tmp_path, "N40E031"), np.zeros((4, 256, 256), dtype=np.uint16), 41, 31, 256)
    result = create(run, tmp_path, tmp_path / "out")
    assert result.exit_code == 1
    assert "no patch was kept" in result.output


def test_other_options_on_the_same_output_are_refused(run, world, dataset):
    before = content(dataset)
    result = create(run, world, dataset, "--seed", 5)
    assert result.exit_code == 1
    assert "--seed was 0, now 5" in result.output
    assert content(dataset) == before


def test_a_second_process_stops_with_one_line(run, world, tmp_path):
    with sole_writer(tmp_path / "out"):
        result = create(run, world, tmp_path / "out")
    assert result.exit_code == 1
    assert "another process is writing" in result.output


def test_a_box_must_be_one(run, world, tmp_path):
    for box in [(31, 41, 32, 40), (31, 40, 31, 41), (200, 40, 210, 41)]:
        result = create(run, world, tmp_path / "out", "--bbox", *box)
        assert result.exit_code == 1
        assert "--bbox" in result.output


def test_a_box_over_the_180th_meridian(run, tmp_path):
    small_world(tmp_path, "N00E179", "N00E177")
    arguments = ("--split", "random", "--bbox", 179.8, 0.1, -179.9, 0.2)
    assert create(run, tmp_path, tmp_path / "out", *arguments).exit_code == 0
    assert [row["name"] for row in rows_of(tmp_path / "out" / "patches.csv")] == ["N00E179_003_003"]


def test_fractions_must_add_up(run, world, tmp_path):
    result = create(run, world, tmp_path / "out", "--fractions", 0.8, 0.3, 0.1)
    assert result.exit_code == 2
    assert "--fractions" in result.output


def test_a_file_that_cannot_be_written_is_one_line_and_the_rerun_completes(world, dataset, tmp_path):
    """A limit on the size of files stands in for a full disk: the write fails in the same place."""
    command = [sys.executable, ROOT / "dataset_creator.py", "--s2", world / "S2RGB_2021"]
    command += ["--worldcover", world / "worldcover_2021", "--output", tmp_path / "out", "--patch-size", "64"]
    command += ["--block-size", "3", "--workers", "1"]
    limit = "import os, sys; from resource import *; setrlimit(RLIMIT_FSIZE, (6000, 6000)); "
    limit += "os.execv(sys.argv[1], sys.argv[1:])"
    result = subprocess.run([sys.executable, "-c", limit, *command], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "File too large" in result.stderr
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert content(tmp_path / "out") == content(dataset)


# ------------------------------------------------------------------------------------------------- pictures, real map


def test_png_is_lossless():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 50), dtype=np.uint8)
    assert (np.asarray(Image.open(io.BytesIO(png_of_image(pixels)))) == pixels.transpose(1, 2, 0)).all()


@pytest.mark.skipif(not REAL_MAP.exists(), reason="the real WorldCover tile is not here (set ARAS_REAL_DATA)")
def test_the_real_map_tile_with_wetland_and_mangrove(run, tmp_path):
    with rasterio.open(REAL_MAP) as land_map:
        codes = land_map.read(1, window=((24000, 36000), (0, 12000)))  # the degree N00E006: São Tomé
    rows, cols = np.nonzero((codes == 90) | (codes == 95))
    top, left = rows.min() // 256 * 256, cols.min() // 256 * 256
    height, width = 12000 - top, -(-(cols.max() + 1 - left) // 256) * 256
    pixels = np.tile(np.arange(1, 4001, dtype=np.uint16).reshape(4, 20, 50), (1, height // 20 + 1, width // 50 + 1))
    write_tile(image_path(tmp_path, "N00E006"), pixels[:, :height, :width], 1 - top / 12000, 6 + left / 12000, 12000)
    arguments = ("--s2", tmp_path / "S2RGB_2021", "--worldcover", REAL_MAP.parent, "--output", tmp_path / "out")
    result = run(dataset_creator.main, *arguments, "--split", "random", "--workers", 1)
    assert result.exit_code == 0, result.output
    seen = set()
    class_of = {10: 0, 20: 1, 30: 2, 40: 3, 50: 4, 60: 5, 70: 5, 80: 6, 90: 2, 95: 0, 100: 2}
    for patch in rows_of(tmp_path / "out" / "patches.csv"):
        at = (slice(int(patch["row"]) * 256, None), slice(int(patch["col"]) * 256, None))
        here = codes[at][:256, :256]
        labels = read_mask(tmp_path / "out" / patch["split"] / "masks" / f"{patch['name']}.png")
        assert (labels == np.vectorize(class_of.get)(here)).all()
        seen |= set(np.unique(here).tolist())
    assert {90, 95} <= seen


# ------------------------------------------------------------------------------------------------------------- kills


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_the_same(tmp_path):
    world = tmp_path / "world"
    make_world(world, per_degree=4 * PER_DEGREE)
    command = [sys.executable, ROOT / "dataset_creator.py", "--s2", world / "S2RGB_2021"]
    command += ["--worldcover", world / "worldcover_2021", "--patch-size", "64", "--workers", "2", "--output"]
    subprocess.run([*command, tmp_path / "unbroken"], check=True, capture_output=True)
    total = sum(1 for _ in (tmp_path / "unbroken").rglob("*.png"))
    rng = np.random.default_rng(0)
    kills = 0
    for share in sorted(rng.uniform(0.02, 0.95, 8)):  # of the files that are there when the kill comes
        process = subprocess.Popen(
            [*command, tmp_path / "killed"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while process.poll() is None and sum(1 for _ in (tmp_path / "killed").rglob("*.png")) < share * total:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 4
    subprocess.run([*command, tmp_path / "killed"], check=True, capture_output=True)
    assert content(tmp_path / "killed") == content(tmp_path / "unbroken")


@pytest.mark.slow
def test_a_killed_worker_is_one_line_and_the_rerun_ends_the_same(tmp_path):
    world = tmp_path / "world"
    make_world(world, per_degree=4 * PER_DEGREE)
    command = [sys.executable, ROOT / "dataset_creator.py", "--s2", world / "S2RGB_2021"]
    command += ["--worldcover", world / "worldcover_2021", "--patch-size", "64", "--workers", "2", "--output"]
    process = subprocess.Popen([*command, tmp_path / "killed"], stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("killed/.progress/*.csv")):
        time.sleep(0.05)
    worker = max(children_of(process.pid), key=lambda pid: int(Path(f"/proc/{pid}/statm").read_text().split()[1]))
    os.kill(worker, signal.SIGKILL)
    told = process.communicate()[1]
    assert process.returncode == 1
    assert "Traceback" not in told
    assert "a worker was killed, likely out of memory" in told
    subprocess.run([*command, tmp_path / "killed"], check=True, capture_output=True)
    subprocess.run([*command, tmp_path / "unbroken"], check=True, capture_output=True)
    assert content(tmp_path / "killed") == content(tmp_path / "unbroken")


@pytest.mark.slow
def test_without_their_parent_the_workers_stop_writing(tmp_path):
    world, output = tmp_path / "world", tmp_path / "out"
    make_world(world, per_degree=8 * PER_DEGREE)
    command = [sys.executable, ROOT / "dataset_creator.py", "--s2", world / "S2RGB_2021", "--output", output]
    command += ["--worldcover", world / "worldcover_2021", "--patch-size", "64", "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not list(output.glob("*/images/*.png")):
        time.sleep(0.05)
    process.kill()  # the parent alone
    process.wait()
    time.sleep(2)  # a row of patches takes much less
    before = len(list(output.glob("*/images/*.png")))
    time.sleep(2)
    assert len(list(output.glob("*/images/*.png"))) == before


def children_of(pid):
    """The process ids of a process's children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
