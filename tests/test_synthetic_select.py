"""The choice of generated images, run as its users run it, on images whose fate is known."""

import csv
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_dataset import make_dataset
from tiny_model import save_tiny_model
from tiny_training import cut_at

import aras.selection.measuring
from aras.files import sole_writer
from aras.legend import CLASS_NAMES, mask_image, read_mask
from aras.pairs import find_pairs, read_image, read_names
from synthetic_select import main

ROOT = Path(__file__).resolve().parent.parent
SELECTED = ("selected.txt", "dropped.csv", "selection.png", "selection.json")


def name_of(number):
    return f"N41E031_{number // 10:03d}_{number % 10:03d}"


def write_confidence(data, means):
    """Write the confidence.csv of synth/ from each image's mean."""
    head = f"filename,mean,{','.join(CLASS_NAMES)}"
    rows = [f"{name_of(number)}.png,{mean:.4f},,,,,,," for number, mean in means.items()]
    (data / "synth" / "confidence.csv").write_text("\n".join([head, *rows]) + "\n")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A dataset of 16 drawn images, of which each odd one has a flaw, and a segmenter."""
    folder = tmp_path_factory.mktemp("world")
    data = make_dataset(folder / "ARAS400k", train=14, val=10, synth=16)
    images, masks = data / "synth" / "images", data / "synth" / "masks"
    (images / f"{name_of(1)}.png").write_bytes(b"torn")
    (masks / f"{name_of(3)}.png").unlink()
    mask_image(np.full((32, 32), 9, np.uint8)).save(masks / f"{name_of(5)}.png")
    copied = read_image(data / "train" / "images" / f"{name_of(6)}.png")
    Image.fromarray(np.rot90(copied, 1)[:, ::-1]).save(images / f"{name_of(9)}.png")
    shutil.copy(images / f"{name_of(0)}.png", images / f"{name_of(11)}.png")
    Image.fromarray(np.rot90(read_image(images / f"{name_of(2)}.png"), 3)).save(images / f"{name_of(13)}.png")
    Image.new("RGB", (32, 32), (255, 0, 255)).save(images / f"{name_of(15)}.png")
    means = {number: 0.9 for number in range(16)} | {7: 0.2, 11: 0.95, 13: 0.85}
    write_confidence(data, means)
    return data, save_tiny_model(folder)


@pytest.fixture
def select(world, run):
    """Run the script on the world."""
    data, weights = world

    def invoke(outdir, *more):
        options = ("--weights", weights, "--device", "cpu", "--workers", 0, "--outdir", outdir)
        return run(main, "--data", data, *options, *more)

    return invoke


LIMITS = ("--min-confidence", 0.5, "--min-distance", 1e-3, "--max-distance", 1e9)


@pytest.fixture(scope="module")
def distances(world, tmp_path_factory):
    """What the default limits come from, and how far the odd image is, by plain means."""
    import torch

    from aras.feature_spaces import open_space

    data, weights = world
    space = open_space("encoder", weights, torch.device("cpu"))

    def features(folder, numbers):
        pixels = [read_image(data / folder / f"{name_of(number)}.png") for number in numbers]
        return space.features(torch.from_numpy(np.stack(pixels)), 8).double()

    train_features, held_out = features("train/images", range(14)), features("val/images", range(10))
    odd = torch.cdist(features("synth/images", [15]), train_features).sort(dim=1).values[0].numpy()
    return torch.cdist(held_out, train_features).sort(dim=1).values.numpy(), odd


def rows_in(path):
    with path.open(newline="") as file:
        return {row["filename"].removesuffix(".png"): row for row in csv.DictReader(file)}


def test_each_flaw_is_the_reason_for_which_an_image_goes(select, distances, tmp_path):
    normal, odd = distances
    far = ("--max-distance", (normal[:, 4].max() + odd[4]) / 2)
    result = select(tmp_path / "out", *LIMITS[:4], *far)
    assert result.exit_code == 0, result.output
    found = rows_in(tmp_path / "out" / "dropped.csv")
    reasons = {int(name[-2:]) + 10 * int(name[-5]): row["reason"] for name, row in found.items()}
    assert odd[4] > normal[:, 4].max()
    wanted = {1: "unreadable", 3: "unreadable", 5: "unreadable", 7: "unsure", 9: "train duplicate", 0: "duplicate"}
    assert reasons == wanted | {13: "duplicate", 15: "out of distribution"}
    assert "cannot be read (not an image)" in found[name_of(1)]["other"]
    assert "is missing" in found[name_of(3)]["other"]
    assert "not in the legend" in found[name_of(5)]["other"] or "index 9" in found[name_of(5)]["other"]
    assert found[name_of(7)]["value"] == "0.2"
    assert found[name_of(9)]["other"] == name_of(6)
    assert float(found[name_of(9)]["value"]) < 1e-3
    assert found[name_of(0)]["other"] == name_of(11)  # its copy is surer
    assert found[name_of(13)]["other"] == name_of(2)  # a turned image is the same scene
    assert float(found[name_of(15)]["value"]) == pytest.approx(odd[4], rel=1e-4)
    names = (tmp_path / "out" / "selected.txt").read_text().split("\n")
    assert names == [name_of(number) for number in range(16) if number not in reasons] + [""]
    told = json.loads((tmp_path / "out" / "selection.json").read_text())
    assert told["selected"] + sum(told["dropped"].values()) == told["images"] == 16
    with Image.open(tmp_path / "out" / "selection.png") as image:
        assert image.width > 1500


def test_limits_are_quantiles_of_what_held_out_images_have(select, distances, tmp_path):
    normal, _ = distances
    result = select(tmp_path / "out", "--tail", 0.2, "--duplicate-tail", 0.1, "--neighbors", 3)
    assert result.exit_code == 0
    limits = json.loads((tmp_path / "out" / "selection.json").read_text())["thresholds"]
    assert limits["distance to the nearest"]["value"] == pytest.approx(np.quantile(normal[:, 0], 0.1), rel=1e-4)
    assert limits["distance to neighbour 3"]["value"] == pytest.approx(np.quantile(normal[:, 2], 0.8), rel=1e-4)
    assert limits["confidence"]["source"] == "0.2 quantile of 10 held-out real images"


def test_the_agreement_of_generated_images_is_with_their_own_masks(world, run, tmp_path):
    """The limits drop nothing but by agreement, whose values are those of plain predictions."""
    import torch

    from aras.inference import labels_and_confidence
    from aras.segmenter import load_segmenter

    data, weights = tmp_path / "ARAS400k", world[1]
    shutil.copytree(world[0], data)
    drawn = data / "train" / "generated"
    shutil.copytree(data / "train" / "images", drawn)
    model = load_segmenter(weights, None, None)
    values = {}
    for number in range(14):
        pixels = torch.from_numpy(read_image(drawn / f"{name_of(number)}.png")[None].copy())
        with torch.inference_mode():
            labels, _ = labels_and_confidence([model], pixels, torch.device("cpu"))
        mask = read_mask(data / "train" / "masks" / f"{name_of(number)}.png")
        values[number] = float((labels[0].numpy() == mask).mean())
    least = float(np.median(list(values.values()))) + 1e-6
    limits = ("--min-confidence", least, "--min-distance", 0, "--max-distance", 1e9)
    options = ("--weights", weights, "--device", "cpu", "--workers", 0, "--outdir", tmp_path / "out")
    result = run(main, "--data", data, "--set", "generated", *limits, *options)
    assert result.exit_code == 0, result.output
    found = rows_in(tmp_path / "out" / "dropped.csv")
    assert {name: float(row["value"]) for name, row in found.items()} == {
        name_of(number): pytest.approx(value, abs=1e-5) for number, value in values.items() if value < least
    }
    assert {row["reason"] for row in found.values()} == {"unsure"}


def test_a_budget_is_filled_towards_the_mix_and_training_takes_its_list(select, world, tmp_path):
    result = select(tmp_path / "out", *LIMITS, "--budget", 5, "--target-mix", "Water=1")
    assert result.exit_code == 0, result.output
    told = json.loads((tmp_path / "out" / "selection.json").read_text())
    assert told["selected"] == 5
    assert told["mix"]["target"]["Water"] == 1
    water = {name: read_mask(path) for name, path in masks_by_name(world[0] / "synth" / "masks").items()}
    shares = {name: float((mask == 6).mean()) for name, mask in water.items()}
    chosen = read_names(tmp_path / "out" / "selected.txt")
    budget = {name for name, row in rows_in(tmp_path / "out" / "dropped.csv").items() if row["reason"] == "budget"}
    assert min(shares[name] for name in chosen) >= max(shares[name] for name in budget)
    assert told["mix"]["after"]["Water"] == pytest.approx(np.mean([shares[name] for name in chosen]), abs=1e-5)
    only = tmp_path / "out" / "selected.txt"
    assert find_pairs(world[0], "synth", only=only).names.tolist() == sorted(chosen)


def masks_by_name(folder):
    return {path.stem: path for path in folder.iterdir() if path.stem != name_of(5)}


@pytest.fixture(scope="module")
def unbroken(world, tmp_path_factory):
    from click.testing import CliRunner

    data, weights = world
    outdir = tmp_path_factory.mktemp("unbroken") / "selection"
    words = ("--data", data, "--weights", weights, "--device", "cpu", "--workers", 0, "--outdir", outdir, *LIMITS)
    assert CliRunner().invoke(main, list(map(str, words))).exit_code == 0
    return outdir


SLOW = pytest.mark.slow


@pytest.mark.parametrize("when", [pytest.param("before", marks=SLOW), "after"])
@pytest.mark.parametrize(
    "name, call",
    [
        ("fill_rows", 1),
        *(pytest.param(*write, marks=SLOW) for write in (("begin_rows", 1), ("end_rows", 2), ("open_rows", 3))),
    ],
)
def test_a_run_cut_off_anywhere_ends_as_an_unbroken_one(select, unbroken, tmp_path, monkeypatch, name, call, when):
    cut_at(monkeypatch, aras.selection.measuring, name, call, when)
    assert select(tmp_path / "out", *LIMITS).exit_code != 0
    monkeypatch.undo()
    assert select(tmp_path / "out", *LIMITS).exit_code == 0
    for file in SELECTED:
        assert (tmp_path / "out" / file).read_bytes() == (unbroken / file).read_bytes(), file


def test_a_finished_run_is_not_touched_and_one_whose_images_changed_is_made_anew(world, run, tmp_path):
    data, weights = tmp_path / "ARAS400k", world[1]
    shutil.copytree(world[0], data)
    words = ("--data", data, "--weights", weights, "--device", "cpu", "--workers", 0, "--outdir", tmp_path / "out")
    assert run(main, *words, *LIMITS).exit_code == 0
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in SELECTED}
    assert "Finished already" in run(main, *words, *LIMITS).output
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in SELECTED} == before
    shutil.copy(data / "synth" / "images" / f"{name_of(4)}.png", data / "synth" / "images" / f"{name_of(1)}.png")
    assert run(main, *words, *LIMITS).exit_code == 0
    found = rows_in(tmp_path / "out" / "dropped.csv")
    assert name_of(1) not in found
    assert (found[name_of(4)]["reason"], found[name_of(4)]["other"]) == ("duplicate", name_of(1))
    refused = run(main, *words, *LIMITS, "--budget", 3)
    assert refused.exit_code == 1
    assert "--budget was not given, now 3" in refused.output


@pytest.mark.parametrize(
    "more, code, message",
    [
        (("--target-mix", "uniform"), 2, "--target-mix says how to fill --budget"),
        (("--target-mix", "forest=1", "--budget", 3), 2, "forest=1 is not CLASS=SHARE"),
        (("--neighbors", 15), 1, "--neighbors 15 is more than the 14 training images"),
        (("--confidence", "gone.csv"), 1, "gone.csv is missing; label the images by segmentation_predict.py"),
        (("--set", "generated"), 1, "generated is not a folder"),
        (("--held-out-images", "nowhere"), 1, "nowhere is not a folder"),
        (("--weights", "gone.pt"), 1, "gone.pt is missing; run segmentation_train.py first"),
    ],
)
def test_what_cannot_be_done_is_one_line(select, tmp_path, more, code, message):
    result = select(tmp_path / "out", *more)
    assert result.exit_code == code
    assert message in " ".join(result.output.split())
    assert result.output.count("Error") == 1


@pytest.mark.parametrize("content", ["name,mean\na,1\n", "filename,mean\nN41E031_000_000.png,high\n", b"\xff\xfe"])
def test_a_table_of_confidence_that_is_none_is_one_line(select, tmp_path, content):
    path = tmp_path / "confidence.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    result = select(tmp_path / "out", "--confidence", path)
    assert result.exit_code == 1
    assert f"{path} is not a table of confidences" in result.output


def test_a_real_image_that_cannot_be_used_is_to_be_mended(world, run, tmp_path):
    data, weights = tmp_path / "ARAS400k", world[1]
    shutil.copytree(world[0], data)
    bad = data / "train" / "images" / f"{name_of(3)}.png"
    bad.write_bytes(b"torn")
    words = ("--data", data, "--weights", weights, "--device", "cpu", "--workers", 0, "--outdir", tmp_path / "out")
    result = run(main, *words, *LIMITS)
    assert result.exit_code == 1
    assert f"{bad} cannot be read" in result.output
    shutil.copy(world[0] / "train" / "images" / f"{name_of(3)}.png", bad)
    assert run(main, *words, *LIMITS).exit_code == 0


def test_an_image_without_a_row_of_confidence_is_unreadable_and_none_left_is_told(world, run, tmp_path):
    data, weights = tmp_path / "ARAS400k", world[1]
    shutil.copytree(world[0], data)
    write_confidence(data, {number: 0.4 for number in range(15)})
    words = ("--data", data, "--weights", weights, "--device", "cpu", "--workers", 0, "--outdir", tmp_path / "out")
    result = run(main, *words, *LIMITS)
    assert result.exit_code == 0, result.output
    assert "WARNING: no image is left" in result.output
    assert (tmp_path / "out" / "selected.txt").read_text() == ""
    assert "has no row of it" in rows_in(tmp_path / "out" / "dropped.csv")[name_of(15)]["other"]


def test_a_folder_by_the_name_of_a_real_set_is_not_taken_for_it(select, world, unbroken, tmp_path):
    """Nor are images of another size compared."""
    own = tmp_path / "train"
    shutil.copytree(world[0] / "synth" / "images", own)
    pair = ("--images", own, "--masks", world[0] / "synth" / "masks")
    told = ("--confidence", world[0] / "synth" / "confidence.csv")
    Image.open(own / f"{name_of(4)}.png").resize((64, 64)).save(own / f"{name_of(4)}.png")
    assert select(tmp_path / "out", *LIMITS, *pair, *told).exit_code == 0
    selected = (unbroken / "selected.txt").read_text()
    assert (tmp_path / "out" / "selected.txt").read_text() == selected.replace(f"{name_of(4)}\n", "")
    why = rows_in(tmp_path / "out" / "dropped.csv")[name_of(4)]["other"]
    assert why == "images of 64x64 pixels where training has 32x32; bring both to one size"


def test_a_second_process_stops_with_one_line(select, tmp_path):
    with sole_writer(tmp_path / "out"):
        assert "another process is writing to" in select(tmp_path / "out").output


@SLOW
def test_a_process_killed_at_any_moment_leaves_nothing_that_the_next_does_not_mend(world, tmp_path):
    """Killed when the first rows of a set lie there, and at moments after the process began to write."""
    data, weights = world
    words = ("--data", data, "--weights", weights, "--device", "cpu", "--workers", 0, "--batch-size", 2)
    command = [sys.executable, ROOT / "synthetic_select.py", *words, "--outdir", tmp_path / "out", *LIMITS]
    plain = [str(word) for word in command]
    kills = 0
    for wait in (0.0, 0.1, 0.3, 0.6, None):
        process = subprocess.Popen(plain, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while wait is not None and process.poll() is None and not list((tmp_path / "out").glob("features/*.np[yz]")):
            time.sleep(0.002)
        if wait is not None:
            time.sleep(wait)
            kills += process.poll() is None
            process.kill()
        _, errors = process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in errors
    assert kills >= 3
    clean = [tmp_path / "clean" if word == str(tmp_path / "out") else word for word in plain]
    subprocess.run(clean, check=True, capture_output=True)
    for file in SELECTED:
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "clean" / file).read_bytes(), file
