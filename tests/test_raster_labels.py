"""Labelling whole rasters, run as its users run it, and what a GIS finds in them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from test_segmentation_predict import failure
from tiny_dataset import write_pair
from tiny_model import save_tiny_model

from aras.files import sole_writer
from aras.legend import CLASS_NAMES, COLORS, NO_DATA
from aras.pairs import read_image
from aras.training import share_cores
from segmentation_predict import main

share_cores()
ROOT = Path(__file__).resolve().parent.parent
PLACE = {"crs": "EPSG:4326", "transform": from_origin(31, 42, 1 / 12000, 1 / 12000)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of a model that was drawn, not trained."""
    return save_tiny_model(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def predict(run, weights):
    """Label rasters on the CPU in windows of 64; return click's result."""

    def invoke(*words):
        options = ("--weights", weights, "--device", "cpu", "--batch-size", 3, "--window", 64)
        return run(main, *options, *words)

    return invoke


def colors_of(tmp_path, height, width, seed=0):
    """Return the pixels (3, height, width) uint8 of a drawn image without zeros."""
    write_pair(tmp_path / "drawn", "image", (height, width), np.random.default_rng(seed), 7, False)
    return np.maximum(read_image(tmp_path / "drawn" / "images" / "image.png"), 1).transpose(2, 0, 1)


def write_raster(path, pixels, **more):
    """Write `pixels` (bands, H, W) as a GeoTIFF and return its path."""
    count, height, width = pixels.shape
    shape = {"count": count, "height": height, "width": width, "dtype": pixels.dtype}
    with rasterio.open(path, "w", driver="GTiff", **(shape | PLACE | more)) as file:
        file.write(pixels)
    return path


def read_band(path):
    with rasterio.open(path) as file:
        return file.read(1)


def whole_pass(weights, pixels, symmetries=1):
    """Return labels and confidence of `pixels` (3, H, W) uint8 put at once through the models in `weights`."""
    import torch

    from aras.inference import labels_and_confidence
    from aras.segmenter import load_segmenter

    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(1, 2, 0)))[None]
    models = [load_segmenter(path, None, None) for path in weights]
    with torch.inference_mode():
        labels, confidence = labels_and_confidence(models, images, torch.device("cpu"), symmetries)
    return labels[0].numpy(), confidence[0].numpy()


@pytest.mark.parametrize("height, width", [(64, 64), (50, 43), (7, 64)])
def test_a_raster_of_one_window_is_labelled_as_an_image_is(tmp_path, predict, weights, height, width):
    pixels = colors_of(tmp_path, height, width)
    raster = write_raster(tmp_path / "tile.tif", pixels)
    assert predict("--raster", raster, "--output", tmp_path / "out.tif", "--confidence-maps").exit_code == 0
    labels, confidence = whole_pass([weights], pixels)
    assert (read_band(tmp_path / "out.tif") == labels).mean() > 0.999
    found = read_band(tmp_path / "out_confidence.tif")
    assert np.abs(found - 255 * confidence).max() <= 0.52


def test_several_models_and_symmetries_label_a_raster(tmp_path, predict, weights):
    pixels = colors_of(tmp_path, 64, 64)
    raster = write_raster(tmp_path / "tile.tif", pixels)
    (tmp_path / "other").mkdir()
    other = save_tiny_model(tmp_path / "other", "FPN", seed=4)
    words = ("--raster", raster, "--output", tmp_path / "out.tif", "--tta", "--weights", other)
    assert predict(*words).exit_code == 0
    labels, _ = whole_pass([weights, other], pixels, symmetries=8)
    assert (read_band(tmp_path / "out.tif") == labels).mean() > 0.999


def test_a_gis_finds_place_colours_names_and_no_data(tmp_path, predict):
    pixels = colors_of(tmp_path, 1100, 100)
    pixels[:, 100:300, 50:90] = 0
    raster = write_raster(tmp_path / "tile.tif", pixels)
    output = tmp_path / "labels"
    options = ("--overlap", 8, "--confidence-maps")
    assert predict("--raster", raster, "--output", output, *options).exit_code == 0
    path = output / "tile_labels.tif"
    assert {p.name for p in output.iterdir() if not p.name.endswith(".lock")} == {
        "tile_labels.tif",
        "tile_labels.tif.aux.xml",
        "tile_labels.tif.run.json",
        "tile_labels_confidence.tif",
    }
    with rasterio.open(path) as file, rasterio.open(output / "tile_labels_confidence.tif") as sure:
        for each in (file, sure):
            assert (each.crs, each.transform) == (PLACE["crs"], PLACE["transform"])
            assert (each.shape, each.dtypes) == ((1100, 100), ("uint8",))
            assert each.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert each.block_shapes == [(512, 512)]
            assert each.overviews(1) == [2, 4]
        assert (file.nodata, sure.nodata) == (NO_DATA, 0)
        colors = file.colormap(1)
        assert [colors[label][:3] for label in range(7)] == [tuple(map(int, color)) for color in COLORS]
        assert colors[NO_DATA][3] == 0
        assert [file.tags(1)[f"class_{label}"] for label in range(7)] == list(CLASS_NAMES)
        labels, confidence = file.read(1), sure.read(1)
        small = file.read(1, out_shape=(275, 25))
        assert set(np.unique(small)) <= {*range(7), NO_DATA}
    assert (labels[100:300, 50:90] == NO_DATA).all()
    assert (confidence[100:300, 50:90] == 0).all()
    assert (labels == NO_DATA).sum() == (confidence == 0).sum() == 200 * 40
    names = (output / "tile_labels.tif.aux.xml").read_text()
    assert [line.strip() for line in names.splitlines() if "<Category>" in line] == [
        f"<Category>{name}</Category>" for name in CLASS_NAMES
    ]


@pytest.mark.parametrize("kind", ["nodata", "alpha", "mask"])
def test_what_the_raster_says_is_no_data_stays_so(tmp_path, predict, kind):
    pixels = colors_of(tmp_path, 40, 70)
    more = {}
    if kind == "nodata":
        pixels[:, :10, :20], more = 9, {"nodata": 9}
    elif kind == "alpha":
        alpha = np.full((1, 40, 70), 255, np.uint8)
        alpha[:, :10, :20] = 0
        pixels, more = np.concatenate([pixels, alpha]), {"photometric": "rgb", "alpha": "yes"}
    raster = write_raster(tmp_path / "tile.tif", pixels, **more)
    if kind == "mask":
        with rasterio.open(raster, "r+") as file:
            file.write_mask(np.pad(np.zeros((10, 20), bool), ((0, 30), (0, 50)), constant_values=True))
    assert predict("--raster", raster, "--output", tmp_path / "out.tif").exit_code == 0
    labels = read_band(tmp_path / "out.tif")
    assert (labels[:10, :20] == NO_DATA).all()
    assert (labels == NO_DATA).sum() == 200 + (kind == "nodata") * (pixels[:, 10:] == 9).all(0).sum()


def test_reflectance_is_scaled_as_the_dataset_was(tmp_path, predict, weights, run):
    scaled = colors_of(tmp_path, 60, 90)
    reflectance = np.rint(scaled * (5100 / 255)).astype(np.uint16)
    bands = np.concatenate([reflectance, np.full((1, 60, 90), 65535, np.uint16)])
    raster = write_raster(tmp_path / "tile.tif", bands)
    eight = write_raster(tmp_path / "eight.tif", scaled)
    data = tmp_path / "data"
    data.mkdir()
    (data / "run.json").write_text(json.dumps({"options": {"stretch": "reflectance", "reflectance_max": 5100}}))
    (tmp_path / "model").mkdir()
    trained = save_tiny_model(tmp_path / "model", data=str(data))
    options = ("--window", 64, "--device", "cpu", "--weights")
    assert run(main, "--raster", eight, "--output", tmp_path / "eight_labels.tif", *options, trained).exit_code == 0
    assert run(main, "--raster", raster, "--output", tmp_path / "told.tif", *options, trained).exit_code == 0
    given = ("--reflectance-max", 5100)
    assert predict("--raster", raster, "--output", tmp_path / "given.tif", *given).exit_code == 0
    assert predict("--raster", raster, "--output", tmp_path / "default.tif").exit_code == 0
    wanted = read_band(tmp_path / "eight_labels.tif")
    assert (read_band(tmp_path / "told.tif") == wanted).all()
    assert (read_band(tmp_path / "given.tif") == wanted).all()
    assert (read_band(tmp_path / "default.tif") != wanted).any()
    scale = [
        json.loads((tmp_path / f"{n}.tif.run.json").read_text())["options"]["reflectance_max"]
        for n in ("told", "given", "default", "eight_labels")
    ]
    assert scale == [5100, 5100, 3000, None]


def test_the_scale_is_found_wherever_the_command_is_run_and_else_warned_of(tmp_path, run, monkeypatch):
    (tmp_path / "runs" / "model").mkdir(parents=True)
    (tmp_path / "sets" / "data").mkdir(parents=True)
    (tmp_path / "sets" / "data" / "run.json").write_text(json.dumps({"options": {"reflectance_max": 5100}}))
    trained = save_tiny_model(tmp_path / "runs" / "model", data="sets/data")
    raster = write_raster(tmp_path / "tile.tif", np.full((3, 32, 32), 700, np.uint16))
    options = ("--raster", raster, "--device", "cpu", "--weights", trained, "--output")
    monkeypatch.chdir(tmp_path / "runs")
    result = run(main, *options, tmp_path / "a.tif")
    assert "a reflectance of 0.51 is 255" in result.output
    assert "WARNING" not in result.output
    (tmp_path / "sets").rename(tmp_path / "gone")
    result = run(main, *options, tmp_path / "b.tif")
    assert "WARNING: no run.json tells how the training's images were scaled" in result.output
    assert "a reflectance of 0.3 is 255" in result.output


def test_scales_that_are_not_clear_are_refused(tmp_path, weights, run):
    raster = write_raster(tmp_path / "tile.tif", np.full((3, 32, 32), 700, np.uint16))
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "model").mkdir()
    trained = save_tiny_model(tmp_path / "model", data=str(data))
    options = ("--window", 64, "--device", "cpu", "--weights")
    (data / "run.json").write_text(json.dumps({"options": {"stretch": "patch-max"}}))
    line = failure(run(main, "--raster", raster, "--output", tmp_path / "x.tif", *options, trained))
    assert "tells of --stretch patch-max, which has no scale; give --reflectance-max" in line
    (data / "run.json").write_text(json.dumps({"options": {"reflectance_max": 5100}}))
    line = failure(
        run(main, "--raster", raster, "--output", tmp_path / "x.tif", *options, trained, "--weights", weights)
    )
    assert "trained on scales of [3000, 5100]; give --reflectance-max" in line


class Blur:
    """Stands for a network that sees far: each class is a weighted mean of all pixels within 10."""

    def __new__(cls):
        import torch

        torch.manual_seed(1)
        model = torch.nn.Conv2d(3, 7, 21, padding=10, bias=False)
        with torch.no_grad():
            model.weight.copy_(torch.randn(7, 3, 21, 21) * 0.05)
        return model.eval()


def blended(tmp_path, side, overlap):
    """Return the labels of a raster of 192 x 160 pixels, put through `Blur` in windows."""
    import torch

    from aras.labelling.images import Labeller
    from aras.labelling.raster_labels import Windows, labelled_rows

    raster = write_raster(tmp_path / "seam.tif", colors_of(tmp_path, 192, 160))
    with rasterio.open(raster) as file, torch.inference_mode():
        labeller = Labeller([Blur()], torch.device("cpu"), 1, maps=False)
        return np.concatenate([labels for _, labels, _ in labelled_rows(file, labeller, Windows(side, overlap, 4), 1)])


def test_no_seam_is_left_where_windows_meet(tmp_path):
    whole = blended(tmp_path, 192, 0)
    assert (blended(tmp_path, 64, 0) != whole).mean() > 0.03
    for side, overlap in ((64, 40), (96, 48)):  # a quarter of the overlap is as far as the network sees
        assert (blended(tmp_path, side, overlap) != whole).mean() < 0.001


def test_windows_cut_otherwise_agree_and_no_border_shows(tmp_path, predict, weights):
    pixels = colors_of(tmp_path, 320, 320)
    raster = write_raster(tmp_path / "tile.tif", pixels)
    whole, wrong = whole_pass([weights], pixels)[0], {}
    for side, overlap in ((128, 64), (160, 64), (128, 0)):
        out = tmp_path / f"{side}_{overlap}.tif"
        cut = ("--window", side, "--overlap", overlap)
        assert predict("--raster", raster, "--output", out, *cut).exit_code == 0
        wrong[side, overlap] = read_band(out) != whole  # of a drawn model, with classes that are nearly even
    assert wrong[128, 64].mean() < 0.03
    assert wrong[160, 64].mean() < 0.03
    assert wrong[128, 0].mean() > 2 * wrong[128, 64].mean()
    border = slice(128 - 64 - 4, 128 + 4)  # where the first two columns of windows meet
    assert wrong[128, 64][:, border].mean() < wrong[128, 64].mean() + 0.01
    assert wrong[128, 0][:, 124:132].mean() > wrong[128, 0].mean() + 0.05


def test_finished_rasters_are_skipped_and_changed_ones_made_again(tmp_path, predict, monkeypatch):
    first, second = (write_raster(tmp_path / f"{n}.tif", colors_of(tmp_path, 40, 70, n)) for n in (1, 2))
    words = ("--raster", first, "--raster", second, "--output", tmp_path / "out")
    assert "1 rasters, 1 to label" in predict(*words, "--limit", 1).output
    before = (tmp_path / "out" / "1_labels.tif").stat().st_mtime_ns
    assert "2 rasters, 1 to label" in predict(*words).output
    assert "2 rasters, 0 to label" in predict(*words).output
    assert (tmp_path / "out" / "1_labels.tif").stat().st_mtime_ns == before
    old = read_band(tmp_path / "out" / "2_labels.tif")
    write_raster(second, colors_of(tmp_path, 40, 70, 3))
    assert "2 rasters, 1 to label" in predict(*words).output
    assert (read_band(tmp_path / "out" / "2_labels.tif") != old).any()
    assert "2 rasters, 2 to label" in predict(*words, "--confidence-maps").output
    assert "2 rasters, 0 to label" in predict(*words, "--confidence-maps").output
    line = failure(predict(*words, "--overlap", 32))
    assert "--overlap was 16, now 32" in line


def test_other_weights_are_refused(tmp_path, predict, run):
    raster = write_raster(tmp_path / "tile.tif", colors_of(tmp_path, 40, 70))
    words = ("--raster", raster, "--output", tmp_path / "out.tif")
    assert predict(*words).exit_code == 0
    (tmp_path / "other").mkdir()
    other = save_tiny_model(tmp_path / "other", seed=4)
    line = failure(run(main, *words, "--weights", other, "--window", 64, "--device", "cpu"))
    assert f"the content of {other} is not what it was when {tmp_path / 'out.tif'} was begun" in line


def test_labels_of_another_raster_are_not_written_over(tmp_path, predict):
    first, second = (write_raster(tmp_path / f"{n}.tif", colors_of(tmp_path, 40, 70, n)) for n in (1, 2))
    assert predict("--raster", first, "--output", tmp_path / "out.tif").exit_code == 0
    before = (tmp_path / "out.tif").read_bytes()
    line = failure(predict("--raster", second, "--output", tmp_path / "out.tif"))
    assert f"--raster was {first}, now {second}" in line
    (tmp_path / "out.tif.run.json").write_text("{}")
    assert "does not tell of a run" in failure(predict("--raster", first, "--output", tmp_path / "out.tif"))
    assert (tmp_path / "out.tif").read_bytes() == before


def bad_rasters(tmp_path):
    """Return rasters that cannot be labelled, and what is said of each."""
    pixels = colors_of(tmp_path, 300, 200)
    cut = write_raster(tmp_path / "cut.tif", pixels, tiled=True, blockxsize=64, blockysize=64)
    cut.write_bytes(cut.read_bytes()[:120_000])
    (tmp_path / "text.tif").write_text("no raster")
    return {
        cut: "cut.tif is damaged or cut short",
        tmp_path / "text.tif": "text.tif cannot be opened",
        tmp_path / "gone.tif": "gone.tif is missing; check the path",
        write_raster(tmp_path / "grey.tif", pixels[:1]): "grey.tif has 1 bands of uint8; give red, green and blue",
        write_raster(tmp_path / "real.tif", pixels.astype("float32")): "real.tif has 3 bands of float32; give red",
    }


def test_rasters_that_cannot_be_labelled_are_named_and_the_others_go_on(tmp_path, predict):
    bad = bad_rasters(tmp_path)
    good = write_raster(tmp_path / "tile.tif", colors_of(tmp_path, 40, 70))
    for raster, told in bad.items():
        assert told in failure(predict("--raster", raster, "--output", tmp_path / "out.tif"))
        assert not (tmp_path / "out.tif").exists()
        assert not (tmp_path / "out.tif.work").exists()
    words = [word for raster in (*bad, good) for word in ("--raster", raster)]
    line = failure(predict(*words, "--output", tmp_path / "out"))
    assert f"5 rasters could not be labelled, see {tmp_path / 'out' / 'rasters.failures.csv'}; the first: " in line
    lines = (tmp_path / "out" / "rasters.failures.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["filename", *map(str, bad)]
    assert read_band(tmp_path / "out" / "tile_labels.tif").shape == (40, 70)


def test_a_raster_without_a_place_is_labelled_with_a_warning(tmp_path, predict):
    raster = write_raster(tmp_path / "tile.tif", colors_of(tmp_path, 40, 70), crs=None, transform=None)
    result = predict("--raster", raster, "--output", tmp_path / "out.tif")
    assert result.exit_code == 0
    assert f"WARNING: {raster} has no coordinate system (CRS), so its labels will have none" in result.output
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.crs is None


def test_a_raster_with_nothing_in_it_needs_no_model(tmp_path, predict, monkeypatch):
    raster = write_raster(tmp_path / "tile.tif", np.zeros((3, 70, 70), np.uint8))
    monkeypatch.setattr("aras.labelling.raster_labels.probabilities_of", None)
    assert predict("--raster", raster, "--output", tmp_path / "out.tif").exit_code == 0
    assert (read_band(tmp_path / "out.tif") == NO_DATA).all()


def test_options_that_do_not_go_together_are_refused(tmp_path, predict, run, monkeypatch):
    raster = write_raster(tmp_path / "tile.tif", colors_of(tmp_path, 40, 70))

    def told(*words):
        result = predict(*words)
        assert result.exit_code != 0
        return result.output.splitlines()[-1]

    assert "--raster needs --output, a folder or a .tif" in told("--raster", raster)
    assert "--images or --raster, not both" in told("--raster", raster, "--images", tmp_path, "--output", tmp_path)
    words = ("--raster", raster, "--output", tmp_path / "out")
    assert "--window must be a multiple of 32" in told(*words, "--window", 65)
    assert "--overlap less than it" in told(*words, "--overlap", 64)
    assert "--window is for --raster" in told("--images", tmp_path)
    assert "would both become" in told(*words, "--raster", raster)
    assert "is a raster to read; name another --output" in told("--raster", raster, "--output", raster)
    mine = write_raster(tmp_path / "mine.tif", colors_of(tmp_path, 40, 70))
    assert "mine.tif was not written by this script" in told("--raster", raster, "--output", mine)
    (tmp_path / "file").write_text("")
    assert "is a file that is no .tif" in told("--raster", raster, "--output", tmp_path / "file")
    result = run(main, "--images", tmp_path, "--output", tmp_path / "file", "--weights", raster)
    assert "is a file; name a folder" in result.output
    with sole_writer(tmp_path / "out.tif", is_file=True):
        assert "another process is writing to" in told("--raster", raster, "--output", tmp_path / "out.tif")
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    assert "--raster runs in one process, not under torchrun" in told(*words)


@pytest.mark.slow
def test_a_disk_that_is_full_leaves_no_raster(tmp_path, weights):
    noise = np.random.default_rng(0).integers(1, 255, (3, 600, 600), dtype=np.uint8)
    raster = write_raster(tmp_path / "tile.tif", noise)
    words = ["--raster", raster, "--output", tmp_path / "out.tif", "--weights", weights, "--window", 256]
    code = (
        "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000));"
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", code, ROOT / "segmentation_predict.py", *words, "--device", "cpu"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "free some disk space" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.tif").exists()
    assert not (tmp_path / "out.tif.work").exists()


PEAK = """
import resource, runpy, sys
import aras.labelling.raster_files
aras.labelling.raster_files.CACHE["GDAL_CACHEMAX"] = 8 << 20  # else it grows until it is full
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_height_of_the_raster(tmp_path, weights):
    peaks = []
    for rows in (2_000, 20_000):
        raster = tmp_path / f"{rows}.tif"
        shape = {"count": 3, "height": rows, "width": 512, "dtype": "uint8", "tiled": True}
        with rasterio.open(raster, "w", driver="GTiff", **shape, **PLACE) as file:
            for top in range(0, rows, 500):
                pixels = np.random.default_rng(top).integers(1, 255, (3, 500, 512), dtype=np.uint8)
                file.write(pixels, window=((top, top + 500), (0, 512)))
        words = ["--raster", raster, "--output", tmp_path / f"{rows}_labels.tif", "--weights", weights]
        command = [
            sys.executable,
            "-c",
            PEAK,
            ROOT / "segmentation_predict.py",
            *words,
            "--window",
            256,
            "--batch-size",
            4,
        ]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [str(word) for word in (*command, "--device", "cpu", "--confidence-maps")],
            capture_output=True,
            text=True,
            env=environment,
            check=True,
        )
        peaks.append(int(done.stdout.split("peak")[-1]) / 1024)
    assert abs(peaks[1] - peaks[0]) < 60  # MiB, of about 900; the probabilities of the larger raster are 273 MiB


@pytest.mark.slow
def test_a_killed_run_leaves_no_raster_and_the_next_makes_it(tmp_path, weights):
    raster = write_raster(tmp_path / "tile.tif", colors_of(tmp_path, 2000, 600))
    words = ["--raster", raster, "--weights", weights, "--window", 128, "--device", "cpu", "--output"]
    command = [str(word) for word in (sys.executable, ROOT / "segmentation_predict.py", *words)]
    subprocess.run([*command, str(tmp_path / "whole.tif")], capture_output=True, check=True)
    work = tmp_path / "cut.tif.work"
    for wait in (0, 0.3, 1):
        process = subprocess.Popen([*command, str(tmp_path / "cut.tif")], stderr=subprocess.DEVNULL)
        while not work.exists() and process.poll() is None:
            time.sleep(0.005)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "cut.tif").exists()
        assert work.exists()
    subprocess.run([*command, str(tmp_path / "cut.tif")], capture_output=True, check=True)
    assert not work.exists()
    assert (tmp_path / "cut.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
