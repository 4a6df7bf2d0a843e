"""Labelling a folder of images, run as its users run it."""

import csv
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_dataset import make_dataset
from tiny_model import ENCODER, save_tiny_model

import segmentation_predict
from aras.files import sole_writer
from aras.labelling import images as labelling
from aras.legend import CLASS_NAMES, read_mask
from aras.pairs import read_image
from aras.training import share_cores
from segmentation_predict import main

share_cores()
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of a model that was drawn, not trained, beside a run.json that tells what it is."""
    return save_tiny_model(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def images(tmp_path):
    """`synth/images` of a dataset, without masks."""
    data = make_dataset(tmp_path / "ARAS400k", synth=7)
    shutil.rmtree(data / "synth" / "masks")
    return data / "synth" / "images"


@pytest.fixture
def predict(run, weights):
    """Run the script on the CPU, three images at a time; return click's result."""

    def invoke(images, *more):
        options = ("--weights", weights, "--batch-size", 3, "--workers", 0, "--device", "cpu")
        return run(main, "--images", images, *options, *more)

    return invoke


def failure(result):
    """Return the one line with which a run failed."""
    assert result.exit_code == 1
    lines = [line for line in result.output.splitlines() if line.startswith("Error")]
    assert result.output.splitlines()[-1:] == lines
    return lines[0]


def files_of(folder):
    """Return the content of every result below `folder`, by relative path."""
    untold = ("run.json", ".lock", "labelled.csv")  # what tells of this run and not of its results
    paths = [p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(untold)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(paths)}


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def clean(images, predict, tmp_path):
    """What an unbroken run gives."""
    assert predict(images, "--output", tmp_path / "clean").exit_code == 0
    return files_of(tmp_path / "clean")


def test_the_synthetic_set_gets_masks_percentages_and_confidence(images, weights, predict):
    import torch

    from aras.inference import logits_of
    from aras.segmenter import load_segmenter

    assert predict(images).exit_code == 0
    synth, data = images.parent, images.parent.parent
    names = sorted(path.name for path in images.iterdir())
    assert sorted(path.name for path in (synth / "masks").glob("*.png")) == names
    percentages, confidences = table(data / "class_percentages" / "synth.csv"), table(synth / "confidence.csv")
    assert list(percentages[0]) == ["filename", *CLASS_NAMES]
    assert list(confidences[0]) == ["filename", "mean", *CLASS_NAMES]
    model = load_segmenter(weights, None, None)
    for name, percent, sure in zip(names, percentages, confidences, strict=True):
        assert percent["filename"] == sure["filename"] == name
        with torch.inference_mode():
            image = torch.from_numpy(read_image(images / name).copy())[None]
            chances = logits_of(model, image, torch.device("cpu")).softmax(1)[0].numpy()
        labels, best = chances.argmax(0), chances.max(0)
        with Image.open(synth / "masks" / name) as mask:
            assert mask.mode == "P"
        assert (read_mask(synth / "masks" / name) == labels).mean() > 0.999
        assert float(sure["mean"]) == pytest.approx(best.mean(), abs=2e-4)
        for c, class_name in enumerate(CLASS_NAMES):
            assert float(percent[class_name]) == pytest.approx(100 * (labels == c).mean(), abs=0.2)
            if (labels == c).any():
                assert float(sure[class_name]) == pytest.approx(best[labels == c].mean(), abs=2e-3)
            else:
                assert sure[class_name] == ""
    assert not (synth / "failures.csv").exists()


def test_a_second_run_has_nothing_to_do_and_needs_no_model(images, predict, monkeypatch):
    assert predict(images).exit_code == 0
    before = files_of(images.parent.parent)
    monkeypatch.setattr(segmentation_predict, "load_segmenter", None)
    result = predict(images)
    assert result.exit_code == 0
    assert "7 images, 0 to label" in result.output
    assert files_of(images.parent.parent) == before


@pytest.mark.parametrize("masks_written", [0, 1, 4, 5])
def test_a_run_that_was_cut_off_ends_as_an_unbroken_one(images, predict, clean, tmp_path, monkeypatch, masks_written):
    output = tmp_path / "cut"
    write, written = labelling.write_mask, []

    def cut(folder, name, labels):
        if len(written) == masks_written:
            raise KeyboardInterrupt
        written.append(name)
        write(folder, name, labels)

    monkeypatch.setattr(labelling, "write_mask", cut)
    assert predict(images, "--output", output).exit_code != 0
    monkeypatch.undo()
    for name in ("class_percentages.csv", "confidence.csv", "labelled.csv"):
        with (output / "masks" / ".progress" / "rank0" / name).open("a") as file:
            file.write("N41E031_000_005.png,1"[: 10 + masks_written * 2])
    (output / "masks" / "N41E031_000_006.png.part").write_bytes(b"half")
    assert predict(images, "--output", output, "--workers", 2).exit_code == 0
    assert files_of(output) == clean


def test_rows_without_a_mask_and_masks_without_rows_are_made_again(images, predict, clean, tmp_path):
    output = tmp_path / "again"
    assert predict(images, "--output", output).exit_code == 0
    (output / "masks" / "N41E031_000_001.png").unlink()
    table_path = output / "confidence.csv"
    lines = table_path.read_text().splitlines(keepends=True)
    table_path.write_text("".join(line for line in lines if "_004" not in line))
    result = predict(images, "--output", output)
    assert "7 images, 2 to label" in result.output
    assert files_of(output) == clean


def test_limit_then_all_gives_the_same(images, predict, clean, tmp_path):
    output = tmp_path / "limited"
    assert predict(images, "--output", output, "--limit", 4).exit_code == 0
    assert len(table(output / "confidence.csv")) == 4
    assert predict(images, "--output", output).exit_code == 0
    assert files_of(output) == clean


def test_a_lower_batch_size_goes_on_with_a_run_that_had_too_little_memory(
    images, predict, clean, tmp_path, monkeypatch
):
    import torch

    output = tmp_path / "small"

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(labelling, "labels_and_confidence", full)
    assert "(CUDA out of memory); lower --batch-size" in failure(predict(images, "--output", output))
    monkeypatch.undo()
    assert predict(images, "--output", output, "--batch-size", 2).exit_code == 0
    for name in (path.name for path in images.iterdir()):
        labels = (read_mask(folder / "masks" / name) for folder in (output, tmp_path / "clean"))
        assert np.equal(*labels).mean() > 0.999
    assert len(clean) == len(files_of(output))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_is_recorded_and_the_others_go_on(images, predict, clean, tmp_path, workers):
    output = tmp_path / "bad"
    corrupt, other = images / "N41E031_000_002.png", images / "N41E031_000_005.png"
    content = {path: path.read_bytes() for path in (corrupt, other)}
    corrupt.write_bytes(content[corrupt][:100])
    Image.new("I;16", (32, 32)).save(other)
    result = predict(images, "--output", output, "--workers", workers)
    assert failure(result).startswith("Error: 2 images could not be labelled, see")
    failures = table(output / "failures.csv")
    assert [row["filename"] for row in failures] == [corrupt.name, other.name]
    assert "cannot be read" in failures[0]["reason"]
    assert "has pixels of mode I;16" in failures[1]["reason"]
    assert len(table(output / "confidence.csv")) == len(list((output / "masks").glob("*.png"))) == 5
    for path, good in content.items():
        path.write_bytes(good)
    assert predict(images, "--output", output).exit_code == 0
    assert files_of(output) == clean


def test_no_readable_image_at_all_is_one_line(images, predict, tmp_path):
    for path in images.iterdir():
        path.write_bytes(b"")
    assert "7 images could not be labelled, see" in failure(predict(images, "--output", tmp_path / "out"))


def test_odd_sizes_are_padded_and_cut_again(tmp_path, predict):
    data = make_dataset(tmp_path / "ARAS400k", size=(50, 71), test=2)
    assert predict(data / "test" / "images", "--output", tmp_path / "out").exit_code == 0
    for mask in (tmp_path / "out" / "masks").glob("*.png"):
        assert read_mask(mask).shape == (50, 71)
    for row in table(tmp_path / "out" / "class_percentages.csv"):
        assert sum(float(row[name]) for name in CLASS_NAMES) == pytest.approx(100, abs=0.05)


@pytest.mark.parametrize("odd", ["N41E031_000_000", "N41E031_000_004"])
def test_an_image_of_another_size_is_a_batch_of_its_own(images, predict, clean, tmp_path, odd):
    output, path = tmp_path / "sizes", images / f"{odd}.png"
    Image.new("RGB", (70, 40)).save(path)
    assert predict(images, "--output", output).exit_code == 0
    assert read_mask(output / "masks" / path.name).shape == (40, 70)
    assert len(table(output / "confidence.csv")) == 7
    found = files_of(output)
    alike = [name for name in clean if name.startswith("masks") and odd not in name]
    assert {name: found[name] for name in alike} == {name: clean[name] for name in alike}


def test_an_image_too_small_for_the_model_is_recorded(tmp_path, run):
    import torch

    from aras.checkpoints import save_tensors
    from aras.segmenter import build_model

    data, weights = make_dataset(tmp_path / "ARAS400k", test=1), tmp_path / f"best_ARAS400k_PAN_{ENCODER}.pth"
    Image.new("RGB", (256, 256)).save(data / "test" / "images" / "large.png")
    torch.manual_seed(3)
    save_tensors(weights, build_model("PAN", ENCODER, "none").state_dict())
    options = ("--weights", weights, "--output", tmp_path / "out", "--device", "cpu", "--workers", 0)
    assert "1 images could not be labelled" in failure(run(main, "--images", data / "test" / "images", *options))
    (row,) = table(tmp_path / "out" / "failures.csv")
    assert row["filename"] == "N41E031_000_000.png"
    assert "--arch PAN does not take images of 32x32 pixels" in row["reason"]


@pytest.mark.parametrize("name", ["a,b", 'say "c"', "two\nlines"])
def test_a_name_that_csv_must_quote_is_done_once(images, predict, tmp_path, name):
    (images / "N41E031_000_003.png").rename(images / f"{name}.png")
    output = tmp_path / "out"
    assert predict(images, "--output", output).exit_code == 0
    assert f"{name}.png" in [row["filename"] for row in table(output / "confidence.csv")]
    assert "7 images, 0 to label" in predict(images, "--output", output).output


def test_a_name_that_is_no_text_is_one_line(images, predict, tmp_path):
    (images / "N41E031_000_003.png").rename(images / os.fsdecode(b"\xff.png"))
    assert "images has a PNG whose name is not UTF-8; rename it" in failure(predict(images, "--output", tmp_path / "o"))


@pytest.mark.parametrize("content, told", [(b"\xff\xfe", "is not a table in UTF-8"), (b"a,b\n1,2\n", "other columns")])
def test_a_table_that_is_not_ours_is_named(images, predict, tmp_path, content, told):
    output = tmp_path / "out"
    assert predict(images, "--output", output).exit_code == 0
    (output / "confidence.csv").write_bytes(content)
    line = failure(predict(images, "--output", output))
    assert str(output / "confidence.csv") in line
    assert told in line


def test_an_image_drawn_again_under_its_name_is_labelled_again(images, predict, tmp_path):
    output, drawn = tmp_path / "out", images / "N41E031_000_002.png"
    assert predict(images, "--output", output).exit_code == 0
    before = files_of(output)
    shutil.copy(images / "N41E031_000_006.png", drawn)
    assert "7 images, 1 to label" in predict(images, "--output", output).output
    assert predict(images, "--output", tmp_path / "new").exit_code == 0
    assert files_of(output) == files_of(tmp_path / "new") != before
    drawn.write_bytes(b"")
    assert "1 images could not be labelled" in failure(predict(images, "--output", output))
    assert not (output / "masks" / drawn.name).exists()


def test_masks_and_rows_of_images_that_are_gone_go_too(images, predict, tmp_path):
    output, gone = tmp_path / "out", images / "N41E031_000_002.png"
    assert predict(images, "--output", output).exit_code == 0
    foreign = output / "masks" / "mine.png"
    shutil.copy(output / "masks" / gone.name, foreign)
    gone.unlink()
    result = predict(images, "--output", output, "--limit", 2)
    assert result.exit_code == 0
    assert "2 images, 0 to label" in result.output
    names = {path.name for path in images.iterdir()}
    assert {path.name for path in (output / "masks").glob("*.png")} == {*names, "mine.png"}
    assert {row["filename"] for row in table(output / "class_percentages.csv")} == names


def test_true_masks_are_never_written_over(tmp_path, predict):
    data = make_dataset(tmp_path / "ARAS400k", test=2)
    before = files_of(data)
    line = failure(predict(data / "test" / "images"))
    assert "test/masks/N41E031_000_00" in line
    assert "was not written by this script" in line
    shutil.rmtree(data / "test" / "masks")
    (data / "class_percentages").mkdir()
    (data / "class_percentages" / "test.csv").write_text("filename\n")
    assert "class_percentages/test.csv was not written by this script" in failure(predict(data / "test" / "images"))
    assert files_of(data).keys() == {k for k in before if "masks" not in k} | {"class_percentages/test.csv"}


def test_images_outside_a_dataset_need_an_output(tmp_path, predict):
    make_dataset(tmp_path, mine=2)
    (tmp_path / "mine" / "images").rename(tmp_path / "mine" / "photos")
    assert "say where to write by --output" in failure(predict(tmp_path / "mine" / "photos"))


def test_weights_of_every_kind_give_the_same(images, predict, clean, weights, tmp_path, run):
    from safetensors.torch import save_file

    from aras.checkpoints import load_tensors

    safe, published = tmp_path / "best.safetensors", tmp_path / f"best_ARAS400k_Unet_{ENCODER}.pth"
    save_file(load_tensors(weights), safe)
    shutil.copy(weights, published)
    for path, kind in ((safe, ("--arch", "unet", "--encoder", ENCODER)), (published, ())):
        options = ("--weights", path, *kind, "--batch-size", 3, "--device", "cpu")
        output = tmp_path / path.suffix
        assert run(main, "--images", images, *options, "--workers", 0, "--output", output).exit_code == 0
        assert files_of(output) == clean


def test_weights_that_do_not_fit_are_named(images, tmp_path, run, weights):
    import torch

    def told(path, *more):
        return failure(run(main, "--images", images, "--output", tmp_path / "out", "--weights", path, *more))

    assert "gone.pt is missing; run segmentation_train.py first" in told(tmp_path / "gone.pt")
    alone = tmp_path / "alone.pt"
    shutil.copy(weights, alone)
    assert "does not tell what alone.pt is; give --arch and --encoder" in told(alone)
    for content in ("[]", '{"options": []}'):
        alone.with_name("run.json").write_text(content)
        assert "does not tell what alone.pt is; give --arch and --encoder" in told(alone)
    line = told(alone, "--arch", "FPN", "--encoder", ENCODER)
    assert f"{alone} does not hold the weights of FPN with {ENCODER}" in line
    alone.write_bytes(weights.read_bytes()[:1000])
    assert f"{alone} is torn" in told(alone, "--arch", "Unet", "--encoder", ENCODER)
    torch.save({"kind": {}, "numbers": {}, "model": {}, "optimizer": {}}, alone)
    assert "is the state of a training; give best.pt beside it" in told(alone, "--arch", "Unet", "--encoder", ENCODER)


def test_other_weights_do_not_mix_with_what_is_there(images, predict, weights, tmp_path):
    from aras.checkpoints import load_tensors, save_tensors

    output = tmp_path / "out"
    assert predict(images, "--output", output, "--limit", 3).exit_code == 0
    before = weights.read_bytes()
    save_tensors(weights, {name: tensor * 2 for name, tensor in load_tensors(weights).items()})
    line = failure(predict(images, "--output", output))
    weights.write_bytes(before)
    assert f"the content of {weights} is not what it was when {output / 'masks'} was begun" in line


def test_a_second_process_stops_with_one_line(images, predict, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    with sole_writer(output):
        assert "another process is writing to" in failure(predict(images, "--output", output))


def test_confidence_maps_are_the_probability_of_the_given_class(images, predict, weights, tmp_path):
    import torch

    from aras.inference import labels_and_confidence
    from aras.segmenter import load_segmenter

    output, model = tmp_path / "out", load_segmenter(weights, None, None)
    assert predict(images, "--output", output, "--confidence-maps").exit_code == 0
    for path in images.iterdir():
        with torch.inference_mode():
            image = torch.from_numpy(read_image(path).copy())[None]
            _, chances = labels_and_confidence([model], image, torch.device("cpu"))
        with Image.open(output / "confidence" / path.name) as sure:
            assert sure.mode == "L"
            found = np.asarray(sure).astype(float)
        assert np.abs(found - 255 * chances[0].numpy()).max() <= 0.51
    (row, *_) = table(output / "confidence.csv")
    with Image.open(output / "confidence" / row["filename"]) as sure:
        assert float(row["mean"]) == pytest.approx(np.asarray(sure).mean() / 255, abs=2e-3)


def test_maps_asked_for_later_are_made_then(images, predict, clean, tmp_path):
    output = tmp_path / "out"
    assert predict(images, "--output", output).exit_code == 0
    assert "7 images, 7 to label" in predict(images, "--output", output, "--confidence-maps").output
    found = files_of(output)
    assert {name: content for name, content in found.items() if not name.startswith("confidence/")} == clean
    (output / "confidence" / "N41E031_000_004.png").unlink()
    (output / "confidence" / "N41E031_000_001.png.part").write_bytes(b"half")
    assert "7 images, 1 to label" in predict(images, "--output", output, "--confidence-maps").output
    assert files_of(output) == found
    assert "7 images, 0 to label" in predict(images, "--output", output).output
    assert files_of(output) == found
    (images / "N41E031_000_004.png").unlink()
    assert predict(images, "--output", output).exit_code == 0
    assert not (output / "confidence" / "N41E031_000_004.png").exists()


def test_maps_of_a_split_lie_beside_its_masks_and_others_are_left_alone(images, predict):
    synth = images.parent
    (synth / "confidence").mkdir()
    Image.new("L", (32, 32)).save(synth / "confidence" / "mine.png")
    assert "confidence/mine.png was not written by this script" in failure(predict(images, "--confidence-maps"))
    shutil.rmtree(synth / "confidence")
    assert predict(images, "--confidence-maps").exit_code == 0
    assert {p.name for p in (synth / "confidence").iterdir()} == {p.name for p in images.iterdir()}


def test_tta_labels_a_turned_image_as_it_labels_the_image(tmp_path, predict):
    data = make_dataset(tmp_path / "ARAS400k", size=(64, 64), test=1)
    folder = data / "test" / "images"
    with Image.open(folder / "N41E031_000_000.png") as image:
        image.transpose(Image.Transpose.TRANSVERSE).save(folder / "turned.png")
    shares = []
    for more in ((), ("--tta",)):
        output = tmp_path / f"out{len(more)}"
        assert predict(folder, "--output", output, *more).exit_code == 0
        upright, turned = (read_mask(output / "masks" / name) for name in ("N41E031_000_000.png", "turned.png"))
        shares.append((upright == turned.T[::-1, ::-1]).mean())
    assert shares[0] < 0.98
    assert shares[1] > 0.999
    assert "--tta was True, now not given" in failure(predict(folder, "--output", tmp_path / "out1"))


def test_several_weights_label_by_their_mean_probability(images, predict, weights, tmp_path):
    import torch

    from aras.checkpoints import save_tensors
    from aras.inference import logits_of
    from aras.segmenter import build_model, load_segmenter

    other = tmp_path / f"best_ARAS400k_FPN_{ENCODER}.pth"
    torch.manual_seed(5)
    save_tensors(other, build_model("FPN", ENCODER, "none").state_dict())
    output = tmp_path / "out"
    assert predict(images, "--weights", other, "--output", output).exit_code == 0
    models = [load_segmenter(path, None, None) for path in (weights, other)]
    cpu = torch.device("cpu")
    for path in images.iterdir():
        with torch.inference_mode():
            image = torch.from_numpy(read_image(path).copy())[None]
            chances = torch.stack([logits_of(model, image, cpu).softmax(1)[0] for model in models]).mean(0)
        assert (read_mask(output / "masks" / path.name) == chances.argmax(0).numpy()).mean() > 0.999
    told = json.loads((output / "run.json").read_text())["options"]
    assert told["weights"] == [str(weights), str(other)]
    assert told["weights_sha256"].split() == [hashlib.sha256(p.read_bytes()).hexdigest() for p in (weights, other)]
    line = failure(predict(images, "--output", output))
    assert f"the content of {weights} is not what it was" in line
    moved = tmp_path / "moved" / other.name
    moved.parent.mkdir()
    other.rename(moved)
    assert f"{other} is missing" in failure(predict(images, "--weights", other, "--output", output))
    assert "7 images, 0 to label" in predict(images, "--weights", moved, "--output", output).output


def command_of(images, weights, output, *more, processes=1):
    """Return the command that labels `images`, by torchrun when there are to be several processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes] if processes > 1 else []
    options = ["--images", images, "--weights", weights, "--output", output, "--batch-size", 4, "--device", "cpu"]
    script = ROOT / "segmentation_predict.py"
    return [str(word) for word in (sys.executable, *launcher, script, *options, "--workers", 0, *more)]


ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
"""As torchrun sets it: sums of floats depend on the number of threads."""


@pytest.mark.slow
def test_two_processes_write_what_one_writes(images, weights, tmp_path):
    broken = images / "N41E031_000_005.png"  # in the second batch, which is that of the second process
    whole = broken.read_bytes()
    for processes in (1, 2):
        broken.write_bytes(b"")
        output = tmp_path / str(processes)
        command = command_of(images, weights, output, "--confidence-maps", "--tta", processes=processes)
        done = subprocess.run(command, capture_output=True, text=True, env=ONE_THREAD, check=False)
        assert done.returncode == 1
        assert f"Error: 1 images could not be labelled, see {output / 'failures.csv'}" in done.stderr
        assert [row["filename"] for row in table(output / "failures.csv")] == [broken.name]
        broken.write_bytes(whole)
        subprocess.run(command, capture_output=True, env=ONE_THREAD, check=True)
        assert not (output / "failures.csv").exists()
        assert not (output / "masks" / ".progress").exists()
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")


@pytest.mark.slow
def test_a_job_of_two_that_was_killed_is_continued_by_one(weights, tmp_path):
    data = make_dataset(tmp_path / "ARAS400k", synth=300)
    images = data / "synth" / "images"
    command = command_of(images, weights, tmp_path / "whole")
    subprocess.run(command, check=True, capture_output=True, env=ONE_THREAD)
    output = tmp_path / "cut"
    job = subprocess.Popen(
        command_of(images, weights, output, processes=2),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ONE_THREAD,
    )
    while not all(len(rows_of(output, rank)) > 8 for rank in (0, 1)):
        assert job.poll() is None
        time.sleep(0.01)
    members = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    for pid in (job.pid, *map(int, members)):  # torchrun first, so that it stops nobody in order
        os.kill(pid, signal.SIGKILL)
    job.wait()
    done = len(list((output / "masks").glob("*.png")))
    assert 16 < done < 300
    rest = subprocess.run(
        command_of(images, weights, output), capture_output=True, text=True, env=ONE_THREAD, check=True
    )
    left = int(re.search(r"300 images, (\d+) to label", rest.stdout)[1])
    assert 300 - done <= left < 300 - 16
    assert files_of(output) == files_of(tmp_path / "whole")


def rows_of(output, rank):
    """Return the lines that the process `rank` has written of the images that it labelled."""
    path = output / "masks" / ".progress" / f"rank{rank}" / "labelled.csv"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_that_the_next_does_not_mend(weights, tmp_path):
    data = make_dataset(tmp_path / "ARAS400k", synth=400)
    shutil.rmtree(data / "synth" / "masks")
    images = data / "synth" / "images"
    workers = ("--workers", 2)
    subprocess.run(command_of(images, weights, tmp_path / "unbroken", *workers), check=True, capture_output=True)
    command = command_of(images, weights, tmp_path / "broken", *workers)
    kills = 0
    for wait in (0.0, 0.05, 0.1, 60):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        before = len(list((tmp_path / "broken").glob("masks/*.png")))
        while process.poll() is None and len(list((tmp_path / "broken").glob("masks/*.png"))) == before:
            time.sleep(0.01)
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills += 1
        _, errors = process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in errors  # before, orphaned workers may tell of the parent that was killed
    assert kills
    assert files_of(tmp_path / "broken") == files_of(tmp_path / "unbroken")
