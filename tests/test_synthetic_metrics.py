"""Synthetic images measured against real ones, run as its users run it."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tiny_dataset import make_dataset
from tiny_model import save_tiny_model

from aras.errors import UserError
from aras.feature_maps.row_files import lacking_rows
from aras.feature_spaces import digest_of
from aras.fidelity import figures
from aras.fidelity.caching import Cache
from aras.fidelity.sets import Wanted, drawn, equal_number, find_sets, labelled_by
from aras.fidelity.table import cell, told_measures
from aras.training import share_cores
from synthetic_metrics import main

share_cores()
ROOT = Path(__file__).resolve().parent.parent
OF_ENCODER = ("frechet", "kernel", "precision", "recall", "density", "coverage", "memorised", "conditional_frechet")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A dataset with drawn images, brighter than real ones, whose masks the segmenter itself read; read-only."""
    folder = tmp_path_factory.mktemp("world")
    data = make_dataset(folder / "ARAS400k", train=30, test=24, synth=26)
    (folder / "segmentation").mkdir()
    weights = save_tiny_model(folder / "segmentation", data="ARAS400k", train=["train"])
    generated = data / "train" / "generated"
    generated.mkdir()
    for path in sorted((data / "train" / "images").iterdir())[:28]:
        brighter(path, generated / path.name, 60)
    for path in (data / "synth" / "images").iterdir():
        brighter(path, path, 30)
    told = {"options": {"weights": [str(weights)], "weights_sha256": digest_of(weights)}}
    (data / "synth" / "masks.run.json").write_text(json.dumps(told))
    return folder


@pytest.fixture
def place(world, tmp_path, monkeypatch):
    """A copy of the world, which is the working directory."""
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(figures, "DPI", 40)
    return tmp_path


@pytest.fixture
def measure(run, place):
    """Run the script on the CPU in this process; return click's result."""
    return lambda *more: run(main, "--workers", 0, "--device", "cpu", "--no-figures", *more)


def brighter(path, to, levels):
    pixels = np.asarray(Image.open(path)).astype(int)
    Image.fromarray(np.clip(pixels + levels, 0, 255).astype(np.uint8)).save(to)


def results(folder="fidelity"):
    return json.loads((Path(folder) / "fidelity.json").read_text())


def failure(result):
    """Return the one line with which a run failed."""
    assert result.exit_code == 1, result.output
    return next(line for line in result.output.splitlines() if line.startswith("Error"))


def stamps(folder):
    return {path.name: path.stat().st_mtime_ns for path in Path(folder).iterdir()}


def test_a_bare_run_measures_the_published_sets_by_equal_numbers(measure):
    result = measure("--figures")
    assert result.exit_code == 0, result.output
    found = results()
    assert found["equal_n"] == 24
    assert [found["reference"]["name"], found["floor"]["name"], *found["sets"]] == [
        "test",
        "train",
        "synth",
        "generated",
    ]
    keys = {f"{name}.encoder" for name in OF_ENCODER} | {"spectrum", "histogram", "adjacency", "borders"}
    generated = found["sets"]["generated"]
    assert (
        generated["measures"].keys() == (keys | {"agreement_miou", "agreement_accuracy"}) - generated["left_out"].keys()
    )
    for told in (found["floor"], *found["sets"].values()):
        assert told["images"] == 24
        for name, each in told["measures"].items():
            assert each["n"] == 24 or name.startswith("conditional")
            assert each["low"] is None or each["low"] <= each["value"] <= each["high"]
    assert found["sets"]["synth"]["labelled_by"] == "judge"
    assert "what this segmenter itself read" in found["sets"]["synth"]["left_out"]["agreement_miou"]
    assert found["floor"]["left_out"]["memorised.encoder"] == "these are training images themselves"
    assert "the segmenter was trained on 24" in found["floor"]["left_out"]["agreement_miou"]
    assert found["reference"]["measures"]["agreement_miou"]["value"] > 0
    assert found["measures"].keys() >= keys
    assert "FID" not in result.output
    for name in ("measures", "spectra", "neighbours"):
        with Image.open(f"fidelity/{name}.png") as image:
            assert min(image.size) > 100
    assert json.loads(Path("fidelity/run.json").read_text())["options"]["max_images"] == 50_000
    written = {path: path.stat().st_mtime_ns for path in Path("fidelity").glob("*.png")}
    written[Path("fidelity/fidelity.json")] = Path("fidelity/fidelity.json").stat().st_mtime_ns
    assert len(written) == 4
    measure("--figures")
    assert written == {path: path.stat().st_mtime_ns for path in written}
    Path("fidelity/spectra.png").unlink()
    measure("--figures")
    assert Path("fidelity/spectra.png").is_file()
    measure("--symmetries", 8)
    assert not list(Path("fidelity").glob("*.png")), "figures of other numbers"


def test_values_are_those_of_all_images_computed_at_once(measure):
    """The histogram of brighter images is off by what they are brighter, and a copy is found to be one."""
    measure("--noise")
    found = results()["sets"]
    assert found["noise"]["noise"]
    assert not found["synth"]["noise"]
    pixels = {name: np.stack([np.asarray(Image.open(p)) for p in sorted(Path(f).glob("*.png"))]) for name, f in PLACES}
    names = sorted(path.stem for path in Path("ARAS400k/synth/images").iterdir())
    chosen = np.isin(names, drawn(np.array(names), 24, 0))
    means = [
        np.mean([abs(quantiles(pixels["synth"][chosen], c) - quantiles(pixels["test"], c)).mean() for c in range(3)])
    ]
    assert found["synth"]["measures"]["histogram"]["value"] == pytest.approx(means[0], abs=0.05)
    assert found["noise"]["measures"]["frechet.encoder"]["value"] > 0
    assert "closest" in found["generated"]


PLACES = (("synth", "ARAS400k/synth/images"), ("test", "ARAS400k/test/images"))


def quantiles(pixels, channel):
    """Return the sorted levels of a channel: the mean difference of two is their Wasserstein distance."""
    return np.sort(pixels[..., channel].ravel().astype(float))


def test_copies_of_training_images_are_found(measure):
    copies = Path("copies/images")
    shutil.copytree("ARAS400k/train/images", copies)
    result = measure("--set", f"copies={copies}")
    told = results()["sets"]["copies"]
    assert told["measures"]["memorised.encoder"]["value"] == 1
    assert told["measures"]["memorised.encoder"]["expected"] < 0.1
    assert all(each["image"] == each["nearest"] and each["ratio"] == 0 for each in told["closest"]["encoder"])
    assert told["left_out"]["adjacency"] == "it has no masks, or the reference has none"
    assert "1 [1, 1] of" in result.output


def test_a_second_run_uses_what_is_there_and_another_set_adds_to_it(measure, monkeypatch):
    measure()
    before, kept = Path("fidelity/fidelity.json").read_bytes(), stamps("fidelity/features")
    from aras.fidelity import running

    with monkeypatch.context() as patch:
        for name in ("extract_features", "extract_agreement", "measure_images"):
            patch.setattr(running, name, None)
        assert measure().exit_code == 0
        assert Path("fidelity/fidelity.json").read_bytes() == before
        assert stamps("fidelity/features") == kept
        assert measure("--max-images", 22).exit_code == 0  # fewer of the same images
        assert results()["equal_n"] == 22
    shutil.copytree("ARAS400k/synth/images", "more/images")
    assert measure("--set", "synth=ARAS400k/synth/images", "--set", "more=more/images").exit_code == 0
    changed = {name for name, stamp in stamps("fidelity/features").items() if kept.get(name) != stamp}
    assert not any(name.startswith(("train.", "test.")) and name.endswith(".npz") for name in changed)
    assert {"more.encoder.npz", "more.statistics.npz"} <= changed


def test_an_image_that_changed_is_computed_again_and_no_other(measure, monkeypatch):
    measure()
    before = results()["sets"]["synth"]["measures"]["frechet.encoder"]
    for path in list(Path("ARAS400k/synth/images").iterdir()):
        if path.stem.endswith("3"):
            brighter(path, path, -90)
    shown = []
    from aras.feature_spaces import FeatureSpace

    features = FeatureSpace.features
    monkeypatch.setattr(FeatureSpace, "features", lambda *a: (shown.append(len(a[1])), features(*a))[1])
    measure("--batch-size", 1)
    assert results()["sets"]["synth"]["measures"]["frechet.encoder"] != before
    assert 2 <= sum(shown) <= 5  # a look at the size, and at most the three that changed


def test_images_that_cannot_be_used_are_listed_and_the_others_kept(measure):
    synth = [path.stem for path in Path("ARAS400k/synth/images").iterdir()]
    images = [f"{name}.png" for name in drawn(np.array(sorted(synth)), 24, 0)[[3, 20]]]
    mask = "N41E031_000_002.png"
    bad = [*(Path("ARAS400k/synth/images") / name for name in images), Path("ARAS400k/test/masks") / mask]
    whole = {path: path.read_bytes() for path in bad}
    for path, content in whole.items():
        path.write_bytes(content[:70])
    assert "3 images could not be used, see fidelity/failures.csv" in failure(measure())
    with Path("fidelity/failures.csv").open(newline="") as file:
        rows = {(row["set"], row["filename"]): row["reason"] for row in csv.DictReader(file)}
    assert rows.keys() == {("synth", images[0]), ("synth", images[1]), ("test", mask)}
    assert f"test/masks/{mask} cannot be read" in rows["test", mask]
    kept = stamps("fidelity/features")
    assert "test.encoder.npz" in kept
    for path, content in whole.items():
        path.write_bytes(content)
    assert measure().exit_code == 0
    assert stamps("fidelity/features")["test.encoder.npz"] == kept["test.encoder.npz"]
    assert not Path("fidelity/failures.csv").exists()


@pytest.mark.slow
def test_processes_give_what_one_gives(measure):
    """The workers of the engine, and those that read images."""
    measure("--outdir", "one")
    measure("--outdir", "two", "--workers", 2)
    assert Path("one/fidelity.json").read_bytes() == Path("two/fidelity.json").read_bytes()


def test_a_judge_that_has_seen_the_reference_is_told(measure):
    result = measure("--reference", "seen=ARAS400k/train/images", "--floor", "test=ARAS400k/test/images")
    assert "WARNING: segmentation/best.pt was trained on 24 images of seen (such as N41E031_000_00" in result.output
    assert "agreement_miou" in results()["reference"]["measures"]
    record = json.loads(Path("segmentation/run.json").read_text())
    Path("segmentation/run.json").write_text(json.dumps({"options": {**record["options"], "train": []}}))
    assert "nothing tells which images" in measure("--dry-run", "--weights", "segmentation/best.pt").output


def test_a_dry_run_does_nothing(measure):
    result = measure("--dry-run", "--noise")
    assert "Would measure synth, generated by 24 images each, into fidelity" in result.output
    assert not Path("fidelity").exists()


def test_bad_input_is_one_line(measure, place):
    assert "--set synth is given twice" in failure(measure("--set", "synth=a", "--set", "synth=b"))
    assert "two sets are named test" in failure(measure("--set", "test=ARAS400k/synth/images"))
    assert "mine is the folder of the reference" in failure(measure("--set", "mine=ARAS400k/test/images"))
    assert "nowhere is not a folder" in failure(measure("--set", "mine=nowhere"))
    assert "--masks mine is of no set" in failure(measure("--masks", "mine=ARAS400k/test/masks"))
    assert "ARAS/test/images is missing; name real images by --reference" in failure(measure("--data", "ARAS"))
    (place / "small").mkdir()
    for k in range(2):
        Image.new("RGB", (16, 16)).save(place / "small" / f"{k}.png")
    assert "the images of small are 16x16 pixels and those of test 32x32" in failure(measure("--set", "small=small"))
    (place / "small" / "1.png").unlink()
    assert "the set small has one image" in failure(measure("--set", "small=small"))
    for path in Path("ARAS400k/synth/masks").iterdir():
        path.unlink()
    line = failure(measure())
    assert "ARAS400k/synth/masks/N41E031_000_00" in line
    assert ".png is missing; label the images (segmentation_predict.py), or leave the masks out by" in line
    given = ("--features", "inception", "--features-weights", "dinov2=x")
    assert "--features-weights dinov2: add --features dinov2" in failure(measure(*given, "--masks", "synth=none"))
    shutil.rmtree("segmentation")
    assert "segmentation/best.pt is missing" in failure(measure("--masks", "synth=none"))
    assert measure("--engine", "dask").exit_code == 2


def test_fewer_images_are_among_those_of_more():
    names = np.array([f"{k:03d}" for k in range(50)])
    few, many = (set(drawn(names, count, 3).tolist()) for count in (10, 30))
    assert few < many
    assert drawn(names, 60, 3).tolist() == names.tolist()
    assert equal_number({"a": names, "b": names[:7]}, 5) == 5


def test_sets_of_one_folder_share_it(place):
    folder = Path("ARAS400k/train/images")
    names = np.array(sorted(path.stem for path in folder.iterdir()))
    found = find_sets(
        [Wanted("some", folder, None), Wanted("all", Path.cwd() / folder, None)], {"some": names[5:9], "all": names}
    )
    assert found["some"].folder is found["all"].folder
    assert found["some"].names.tolist() == names[5:9].tolist()
    assert found["some"].stamp != found["all"].stamp


def test_rows_are_taken_over_where_images_are_the_same(tmp_path):
    names, stamps_of = np.array(list("abcdef")), np.arange(12).reshape(6, 2)
    cache = Cache(tmp_path / "x.y.npz", "features", "key", names, stamps_of)
    rows = cache.begin(3)
    array = np.load(rows, mmap_mode="r+")
    assert np.isnan(array).all()
    array[:] = np.arange(18).reshape(6, 3)
    cache.end(rows)
    assert cache.is_whole()
    assert cache.rows(np.array([1, 4])).tolist() == [[3, 4, 5], [12, 13, 14]]
    part = Cache(cache.path, "features", "key", names[[0, 3, 5]], stamps_of[[0, 3, 5]])
    assert part.rows(np.array([0, 2])).tolist() == [[0, 1, 2], [15, 16, 17]]
    changed = stamps_of.copy()
    changed[2] += 1
    other = Cache(cache.path, "features", "key", np.array(list("abcdefg")), np.vstack([changed, [[7, 7]]]))
    assert not other.is_whole()
    begun = np.load(other.begin(3))
    assert np.isnan(begun).all(axis=1).tolist() == [False, False, True, False, False, False, True]
    assert begun[5].tolist() == [15, 16, 17]
    assert not Cache(cache.path, "features", "other key", names, stamps_of).is_whole()
    torn = cache.path.read_bytes()
    cache.path.write_bytes(torn[:60] + b"\x00" * 8 + torn[68:])
    with pytest.raises(UserError, match=r"x\.y\.npz is torn .* delete it"):
        cache.rows(np.arange(6))
    cache.path.write_bytes(torn[:100])
    assert not cache.is_whole()
    begun = cache.begin(3)
    for length in (0, 60, 140):
        os.truncate(begun, length)
        with pytest.raises(UserError, match=r"\.npy is torn; delete it"):
            lacking_rows(begun)


def test_other_images_of_the_same_names_sizes_and_dates_are_other_images(tmp_path):
    """As those unpacked from two archives without compression, which date every file alike."""
    folder = tmp_path / "images"
    found = []
    for level in (10, 200):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in "ab":
            Image.new("RGB", (8, 8), (level,) * 3).save(folder / f"{name}.png", compress_level=0)
            os.utime(folder / f"{name}.png", (315_532_800, 315_532_800))
        time.sleep(0.02)  # a clock of files ticks every few milliseconds
        names = np.array(["a", "b"])
        found.append(find_sets([Wanted("set", folder, None)], {"set": names})["set"])
    assert (found[0].folder.stamps[:, 0] == found[1].folder.stamps[:, 0]).all()
    assert found[0].stamp != found[1].stamp
    assert (found[0].folder.stamps[:, 1] != found[1].folder.stamps[:, 1]).all()


def test_who_made_masks_is_read_beside_them(tmp_path):
    masks = tmp_path / "synth" / "masks"
    assert labelled_by(masks) is None
    masks.parent.mkdir()
    (masks.parent / "run.json").write_text(json.dumps({"options": {"weights": ["a"], "weights_sha256": "12 34"}}))
    assert labelled_by(masks) == ("12", "34")


def test_a_distance_is_called_what_its_space_says():
    spaces = [
        SimpleNamespace(name="inception", distance=told) for told in ("FID", "Fréchet distance (Inception, other)")
    ]
    real, other = (told_measures([space]) for space in spaces)
    assert real["frechet.inception"]["heading"] == "FID"
    assert real["kernel.inception"]["heading"] == "KID"
    assert not any("FID" in about["heading"] or "KID" in about["heading"] for about in other.values())


def test_numbers_are_told_with_the_digits_that_count():
    assert cell({"value": 12345.6, "low": 0.5, "high": 2e4}, True) == "12,346 [0.5, 20,000] *"
    assert cell({"value": 0.00001, "low": None, "high": None}, False) == "1.0e-05"
    assert cell(None, False) == "-"


def natural(rng, side, slope, blur=0.0):
    """Return an image (side, side, 3) uint8 whose power falls by the frequency to `slope`, in a land cover's colour."""
    from scipy.ndimage import gaussian_filter

    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    frequency[0, 0] = 1
    waves = np.fft.fft2(rng.normal(size=(side, side))) * frequency ** (-slope / 2)
    relief = np.fft.ifft2(waves).real
    relief = relief / relief.std() * 15
    color = np.array([(90, 100, 60), (150, 120, 80), (60, 80, 90)][rng.integers(3)]) + rng.normal(0, 8, 3)
    return np.clip(gaussian_filter(relief, blur)[..., None] + color, 0, 255).astype(np.uint8)


@pytest.mark.slow
def test_real_images_come_before_drawn_ones_and_noise_comes_last(measure, tmp_path):
    """At equal number, in every distance that is to tell them apart."""
    rng = np.random.default_rng(0)
    for name, blur, shift in (("test", 0, 0), ("train", 0, 0), ("drawn", 1.2, 14)):
        folder = tmp_path / "land" / name / "images"
        folder.mkdir(parents=True)
        for k in range(60):
            pixels = natural(rng, 64, 2.2, blur).astype(int) + shift
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{name}{k:03d}.png")
    measure("--data", "land", "--set", "drawn=land/drawn/images", "--noise", "--weights", "segmentation/best.pt")
    check_order(results(), ("drawn",))


def check_order(found, drawn_sets, lax=()):
    for key in ("frechet.encoder", "kernel.encoder", "spectrum", "histogram"):
        floor, noise = (each["measures"][key]["value"] for each in (found["floor"], found["sets"]["noise"]))
        for name in drawn_sets:
            value = found["sets"][name]["measures"][key]["value"]
            assert value < noise, (key, name)
            assert floor < value or (name, key) in lax, (key, name)


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "demo" / "ARAS400k" / "synth" / "masks").is_dir(), reason="make demo was not run")
def test_the_demo_is_in_order(run, tmp_path):
    """The colours of 64 of StyleGAN's images can lie as near to the test split's as those of other real images do."""
    demo = ROOT / "demo"
    options = (
        "--data",
        demo / "ARAS400k",
        "--weights",
        demo / "segmentation" / "best.pt",
        "--outdir",
        tmp_path / "out",
    )
    assert run(main, *options, "--noise", "--workers", 0, "--device", "cpu").exit_code == 0
    check_order(results(tmp_path / "out"), ("synth", "generated"), lax={("synth", "histogram")})


@pytest.mark.slow
def test_killed_at_any_time_it_ends_with_the_same_bytes(place):
    command = [
        sys.executable,
        str(ROOT / "synthetic_metrics.py"),
        "--workers",
        "0",
        "--device",
        "cpu",
        "--noise",
        "--no-figures",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # by more, sums are rounded in another order
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    start = time.monotonic()
    subprocess.run([*command, "--outdir", "whole"], check=True, capture_output=True, env=environment)
    seconds, kills = time.monotonic() - start, 0
    rng = np.random.default_rng(0)
    for _ in range(6):
        process = subprocess.Popen([*command, "--outdir", "killed"], **quiet)
        time.sleep(seconds * rng.uniform(0.3, 0.9))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills
    subprocess.run([*command, "--outdir", "killed"], check=True, capture_output=True, env=environment)
    whole, killed = (Path(name) for name in ("whole", "killed"))
    texts = [(folder / "fidelity.json").read_text().replace(str(folder), "") for folder in (whole, killed)]
    assert texts[0] == texts[1]
    assert not list(killed.rglob("*.part")) and not list(killed.rglob("*.npy"))
