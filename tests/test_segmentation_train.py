"""The trainer, run as its users run it, on a dataset that fits a few seconds."""

import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_dataset import make_dataset
from tiny_training import ENCODER, NAME, assert_same_run, command, cut_at, failure, same, tensors_of, train
from wandb_file import read_run

import aras.loading
import aras.segmentation.run_folder
import aras.segmentation.testing
import segmentation_train
from aras.files import sole_writer
from aras.legend import CLASS_NAMES, read_mask
from aras.segmentation.run_folder import RunFolder
from aras.training import share_cores
from segmentation_train import main

share_cores()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("tiny") / "ARAS400k", train=9, val=3, test=5, synth=4)


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    """The run folder of two epochs without an interruption."""
    outdir = tmp_path_factory.mktemp("unbroken") / "segmentation"
    assert train(data, outdir, "--epochs", 2).exit_code == 0
    return outdir


@pytest.fixture
def copied(unbroken, tmp_path):
    """A copy of the finished run folder, to spoil; without its test scores it goes on."""
    outdir = tmp_path / "segmentation"
    shutil.copytree(unbroken, outdir)
    (outdir / "test_metrics.json").unlink()
    return outdir


# ---------------------------------------------------------------------------------------------- what a run leaves


def test_the_run_folder_tells_the_run(unbroken):
    files = {path.name for path in unbroken.iterdir()}
    assert files == {
        *(".lock", "run.json", "metrics.jsonl", "last.pt", "best.pt", "test_metrics.json"),
        *(f"best_{NAME}.pth", f"{NAME}.zip", "curves.png", "confusion_matrix.png"),
    }
    record = json.loads((unbroken / "run.json").read_text())
    assert record["options"]["arch"] == "FPN"
    assert record["options"]["encoder"] == ENCODER
    assert record["options"]["train"] == ["train"]
    assert record["seed"] == 0
    assert record["versions"]["torch"] != "absent"
    lines = [json.loads(line) for line in (unbroken / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert {"train_loss", "val_loss", "f1", "iou", "lr", "seconds", "images_per_second"} <= lines[0].keys()
    assert set(lines[0]["class_iou"]) == set(CLASS_NAMES)


def test_best_is_a_plain_state_dict_under_both_names(unbroken, tmp_path):
    import safetensors.torch

    from aras.segmenter import load_segmenter

    best = tensors_of(unbroken / "best.pt")
    model = load_segmenter(unbroken / f"best_{NAME}.pth", "FPN", ENCODER)
    assert same(dict(model.state_dict()), dict(best))
    assert all(tensor.is_contiguous() for tensor in best.values())
    safetensors.torch.save_file(best, tmp_path / "best.safetensors")


def test_test_scores_are_those_of_the_zipped_predictions(unbroken, data):
    from aras.confusion import scores

    found = json.loads((unbroken / "test_metrics.json").read_text())
    matrix = np.zeros((7, 7), int)
    with zipfile.ZipFile(unbroken / f"{NAME}.zip") as archive:
        assert archive.testzip() is None
        masks = sorted((data / "test" / "masks").iterdir())
        assert archive.namelist() == [f"pred_{mask.name}" for mask in masks]
        for mask in masks:
            content = archive.read(f"pred_{mask.name}")
            with Image.open(io.BytesIO(content)) as image:
                assert image.mode == "P"
                predicted = np.asarray(image)
            np.add.at(matrix, (read_mask(mask), predicted), 1)
    assert found["confusion_matrix"] == matrix.tolist()
    assert found["images"] == 5
    assert found | json.loads(json.dumps(scores(matrix))) == found


def test_a_finished_run_is_not_touched(unbroken, data):
    before = {path: path.stat().st_mtime_ns for path in unbroken.iterdir() if path.name != ".lock"}
    result = train(data, unbroken, "--epochs", 2)
    assert result.exit_code == 0
    assert "Finished already" in result.output
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_metrics_say_which_classes_the_split_lacks(tmp_path):
    data = make_dataset(tmp_path / "ARAS400k", classes=3, train=4, val=2, test=2)
    result = train(data, tmp_path / "run", "--epochs", 1)
    assert result.exit_code == 0
    assert "not counted in the mean: Crop, Built-up, Barren, Water" in result.output
    assert json.loads((tmp_path / "run" / "test_metrics.json").read_text())["absent"] == list(CLASS_NAMES[3:])


# --------------------------------------------------------------------------------------------------------- resume


def test_a_resumed_run_equals_an_unbroken_one_to_the_bit(unbroken, data, tmp_path):
    """Also with other workers, and through --epochs raised on a finished run."""
    outdir = tmp_path / "segmentation"
    assert train(data, outdir, "--epochs", 1).exit_code == 0
    torn = '{"epoch": 2, "train_loss": 0.1}\n{"epoch": 3, "tra'
    with (outdir / "metrics.jsonl").open("a") as file:
        file.write(torn)
    (outdir / "best.pt.part").write_bytes(b"half")
    assert train(data, outdir, "--epochs", 2, "--workers", 2).exit_code == 0
    assert_same_run(outdir, unbroken)
    assert not list(outdir.glob("*.part"))


def test_a_kill_between_last_and_best_is_mended(unbroken, copied, data):
    saved = tensors_of(copied / "last.pt")
    assert saved["numbers"]["best_epoch"] == saved["numbers"]["epoch"] == 2
    (copied / "best.pt").write_bytes(b"of the epoch before")
    assert train(data, copied, "--epochs", 2).exit_code == 0
    assert_same_run(copied, unbroken)


SLOW = pytest.mark.slow
WRITES = [  # and which call of them
    *((segmentation_train, name, 2) for name in ("append_line", "save")),
    *(
        (RunFolder, "save_best", 2),
        (aras.segmentation.run_folder, "keep_also_as", 2),
        (RunFolder, "prediction_writer", 1),
    ),
    *((aras.segmentation.testing, name, 1) for name in ("fit_tensors", "draw_curves", "draw_confusion", "write_json")),
]


@pytest.mark.parametrize("when", [pytest.param("before", marks=SLOW), "after"])
@pytest.mark.parametrize(
    "owner, name, call",
    [pytest.param(*write, marks=() if write[1] in ("save", "prediction_writer") else SLOW) for write in WRITES],
)
def test_a_run_cut_off_beside_any_write_ends_as_an_unbroken_one(
    unbroken, data, tmp_path, monkeypatch, owner, name, call, when
):
    cut_at(monkeypatch, owner, name, call, when)
    outdir = tmp_path / "segmentation"
    assert train(data, outdir, "--epochs", 2).exit_code != 0
    monkeypatch.undo()
    assert train(data, outdir, "--epochs", 2).exit_code == 0
    assert_same_run(outdir, unbroken)


def test_other_options_are_named(copied, data):
    line = failure(train(data, copied, "--epochs", 2, "--lr", 0.01, "--seed", 1))
    assert "--lr was 0.001, now 0.01" in line
    assert "--seed was 0, now 1" in line


@pytest.mark.parametrize("damage", ["torn", "flipped", "empty", "text"])
def test_a_damaged_checkpoint_is_named(copied, data, damage):
    last = copied / "last.pt"
    content = bytearray(last.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    content = {"torn": content[: len(content) // 2], "flipped": content, "empty": b"", "text": b"hello"}[damage]
    last.write_bytes(content)
    line = failure(train(data, copied, "--epochs", 3))
    assert f"{last} is torn or not a file of weights" in line
    assert line.endswith("delete it, and the same command trains from the first epoch")


def test_a_torn_checkpoint_deleted_as_told_trains_from_the_first_epoch(unbroken, copied, data):
    (copied / "last.pt").unlink()
    assert train(data, copied, "--epochs", 2).exit_code == 0
    assert_same_run(copied, unbroken)


FINISHED = ("best.pt", f"best_{NAME}.pth", f"{NAME}.zip", "curves.png", "confusion_matrix.png")


@pytest.mark.parametrize("gone", [*(pytest.param((name,), marks=SLOW) for name in FINISHED), FINISHED])
def test_what_a_finished_run_lost_is_made_again(unbroken, data, tmp_path, gone):
    outdir = tmp_path / "segmentation"
    shutil.copytree(unbroken, outdir)
    for name in gone:
        (outdir / name).unlink()
    assert train(data, outdir, "--epochs", 2).exit_code == 0
    assert_same_run(outdir, unbroken)
    assert (outdir / "best.pt").samefile(outdir / f"best_{NAME}.pth")
    (outdir / "last.pt").unlink()
    assert "Finished already" in train(data, outdir, "--epochs", 2).output
    (outdir / gone[0]).unlink()
    line = failure(train(data, outdir, "--epochs", 2))
    assert f"{outdir / gone[0]} is missing, and without last.pt it cannot be made again; delete {outdir}" in line


def test_a_best_epoch_that_is_not_the_last_comes_back_from_its_other_name_or_not_at_all(copied, data):
    import torch

    saved = tensors_of(copied / "last.pt")
    saved["numbers"] |= {"best_epoch": 1, "best_f1": 2.0}
    torch.save(saved, copied / "last.pt")
    best, published = (copied / name for name in FINISHED[:2])
    content = best.read_bytes()
    for gone in (best, published):
        gone.unlink()
        (copied / "test_metrics.json").unlink(missing_ok=True)
        assert train(data, copied, "--epochs", 2).exit_code == 0
        assert best.read_bytes() == published.read_bytes() == content
    best.unlink()
    published.unlink()
    line = failure(train(data, copied, "--epochs", 3))
    assert f"{best} is missing, and last.pt has the weights of epoch 2, not of the best, 1; put it back" in line


def test_another_dataset_is_not_trained_on(copied, tmp_path, data):
    """The folder keeps its name: what changes is how many pairs there are, or what they are called."""
    here = Path(json.loads((copied / "run.json").read_text())["options"]["data"])
    assert here == data
    for folder in ("images", "masks"):
        (data / "val" / folder / "N41E031_000_002.png").rename(data / "val" / folder / "N41E031_000_009.png")
    try:
        line = failure(train(data, copied, "--epochs", 3))
    finally:
        for folder in ("images", "masks"):
            (data / "val" / folder / "N41E031_000_009.png").rename(data / "val" / folder / "N41E031_000_002.png")
    assert f"the dataset is not the one that {copied / 'last.pt'} was trained on: val was" in line
    assert re.search(r"val was 3 pairs with names (\w{12}), now 3 pairs with names (?!\1)\w{12}; put it back", line)


@pytest.mark.parametrize("content", ["{}", "[]", '{"epochs": 2}'])
def test_test_scores_that_are_none_are_one_line(copied, data, content):
    (copied / "test_metrics.json").write_text(content)
    assert "test_metrics.json does not tell of a test; delete it" in failure(train(data, copied, "--epochs", 2))


def test_a_record_that_is_none_is_one_line(copied, data):
    (copied / "run.json").write_text("[]")
    assert "run.json does not tell of a run" in failure(train(data, copied, "--epochs", 2))


def test_a_foreign_checkpoint_is_named_and_not_half_loaded(copied, data):
    import torch

    last = copied / "last.pt"
    saved = tensors_of(last)
    foreign = [
        ({"weights": torch.zeros(3)}, "is not the state of training FPN with"),
        (saved | {"kind": {"arch": "Unet", "encoder": ENCODER}}, "is not the state of training FPN with"),
        (torch.zeros(3), "holds a Tensor"),
        (saved | {"model": {"other.weight": torch.zeros(3)}}, "missing (such as"),
        (saved | {"optimizer": {"state": {}, "param_groups": []}}, "has another optimizer"),
    ]
    for content, message in foreign:
        torch.save(content, last)
        line = failure(train(data, copied, "--epochs", 3))
        assert str(last) in line
        assert message in line
        assert len((copied / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_checkpoint_without_its_record_is_not_trusted(copied, data):
    (copied / "run.json").unlink()
    assert "last.pt lacks the run.json" in failure(train(data, copied, "--epochs", 2))


def test_a_second_process_stops_with_one_line(data, tmp_path):
    outdir = tmp_path / "segmentation"
    with sole_writer(outdir):
        assert "another process is writing to" in failure(train(data, outdir))


def test_it_stops_early_and_says_so(data, tmp_path, monkeypatch):
    monkeypatch.setattr(segmentation_train, "scores", lambda matrix: original(matrix) | {"f1": 0.25})
    from aras.confusion import scores as original

    outdir = tmp_path / "segmentation"
    result = train(data, outdir, "--epochs", 9, "--patience", 2)
    assert result.exit_code == 0
    found = json.loads((outdir / "test_metrics.json").read_text())
    assert (found["epochs"], found["best_epoch"], found["stopped_early"]) == (3, 1, True)
    assert "Finished already" in train(data, outdir, "--epochs", 20, "--patience", 2).output


# ------------------------------------------------------------------------------------------------------ bad inputs


def test_a_run_that_diverges_keeps_nothing_of_that_epoch(tmp_path):
    """One step, whose loss is a number: the weights after it are what shows."""
    data = make_dataset(tmp_path / "ARAS400k", train=4, val=2, test=2)
    outdir = tmp_path / "run"
    line = failure(train(data, outdir, "--lr", 1e30, "--epochs", 1))
    assert re.search(r"diverged in epoch 1 \(.*\); delete .*run, which holds no finished epoch, and start again", line)
    assert "a lower --lr (it was 1e+30)" in line
    assert {path.name for path in outdir.iterdir()} == {".lock", "run.json"}


def test_a_run_that_diverges_later_says_what_is_kept(copied, data):
    import torch

    saved = tensors_of(copied / "last.pt")
    saved["optimizer"]["param_groups"][0]["lr"] = 1e30
    torch.save(saved, copied / "last.pt")
    before = {path: path.read_bytes() for path in copied.iterdir() if path.suffix not in (".pt", ".pth")}
    line = failure(train(data, copied, "--epochs", 3))
    assert "diverged in epoch 3" in line
    assert f"another --outdir; {copied} still holds what the epochs up to 2 gave" in line
    assert {path: path.read_bytes() for path in before} == before
    assert tensors_of(copied / "last.pt")["numbers"]["epoch"] == 2


def test_a_disk_that_is_full_is_one_line_and_the_rerun_completes(data, unbroken, tmp_path):
    """A limit on the size of files stands in for a full disk: the write fails in the same place."""
    outdir = tmp_path / "run"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, before[1]))
    try:
        line = failure(train(data, outdir, "--epochs", 2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert line == f"Error: {outdir / 'last.pt'}: File too large"
    assert not list(outdir.glob("*.pt*"))
    assert train(data, outdir, "--epochs", 2).exit_code == 0
    assert_same_run(outdir, unbroken)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unknown_colour_in_a_mask_is_one_line_from_any_process(tmp_path, workers):
    data = make_dataset(tmp_path / "ARAS400k", train=4, val=2, test=2)
    bad = data / "train" / "masks" / "N41E031_000_002.png"
    Image.new("RGB", (32, 32), (1, 2, 3)).save(bad)
    line = failure(train(data, tmp_path / "run", "--workers", workers))
    assert f"{bad} has the colour (1, 2, 3)" in line


def test_a_worker_that_is_killed_is_one_line(data, tmp_path, monkeypatch):
    """As by the system, when memory is short; only workers read pairs here."""
    monkeypatch.setattr(aras.loading, "read_pair", lambda *pair: os.kill(os.getpid(), signal.SIGKILL))
    line = failure(train(data, tmp_path / "run", "--workers", 1))
    assert re.search(r"a process that reads images was lost \(DataLoader worker .*\); lower --workers", line)


def test_too_few_images_are_one_line(data, tmp_path):
    line = failure(train(data, tmp_path / "run", "--limit", 1))
    assert (
        "1 images are too few to train on: batch normalisation needs two, and each process one; raise --limit" in line
    )
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_missing_mask_stops_before_training(tmp_path):
    data = make_dataset(tmp_path / "ARAS400k", train=4, val=2, test=2)
    bad = data / "test" / "masks" / "N41E031_000_001.png"
    bad.unlink()
    assert f"{bad} is missing" in failure(train(data, tmp_path / "run"))
    assert not (tmp_path / "run" / "run.json").exists()


def test_sides_that_are_no_multiple_of_32_are_named(tmp_path):
    data = make_dataset(tmp_path / "ARAS400k", size=(48, 64), train=4, val=2, test=2)
    line = failure(train(data, tmp_path / "run"))
    assert "images/N41E031_000_000.png is 64x48 pixels; both sides must be multiples of 32" in line


def test_oblong_images_train(tmp_path):
    """They are not turned: a quarter turn would leave two shapes in a batch."""
    data = make_dataset(tmp_path / "ARAS400k", size=(32, 64), train=8, val=2, test=2)
    assert train(data, tmp_path / "run", "--epochs", 1).exit_code == 0


def test_images_of_two_sizes_are_named(tmp_path):
    data = make_dataset(tmp_path / "ARAS400k", train=4, val=2, test=2)
    make_dataset(data, size=(64, 64), val=1)
    line = failure(train(data, tmp_path / "run", "--epochs", 1))
    assert "val/images/N41E031_000_000.png is 64x64 pixels where the others are 32x32" in line


def test_a_missing_dataset_is_named(tmp_path):
    line = failure(train(tmp_path / "nowhere", tmp_path / "run"))
    assert "nowhere is not a folder; make the dataset first (dataset_creator.py), or name --data" in line
    assert not (tmp_path / "run").exists()
    (tmp_path / "nowhere").mkdir()
    line = failure(train(tmp_path / "nowhere", tmp_path / "run"))
    assert "nowhere/train/images is not a folder; check the path" in line


def test_without_the_hub_the_error_names_both_ways_out_before_any_data_is_read(tmp_path, run, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # read from the environment at its import, earlier than here
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "empty").mkdir()  # reading data would be another error
    line = failure(run(main, "--data", tmp_path / "empty", "--outdir", tmp_path / "run", "--encoder", "resnet18"))
    assert "--encoder-weights none" in line
    assert "--encoder-weights FILE" in line
    assert not (tmp_path / "run" / "run.json").exists()
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_encoder_weights_from_a_file(data, tmp_path):
    from safetensors.torch import save_file

    from aras.segmenter import build_model

    encoder = build_model("FPN", ENCODER, "none").encoder
    path = tmp_path / "encoder.safetensors"
    save_file(dict(encoder.state_dict()), path)
    loaded = build_model("FPN", ENCODER, str(path)).encoder
    assert same(dict(loaded.state_dict()), dict(encoder.state_dict()))

    save_file({"conv.weight": encoder.state_dict()["model.conv_stem.weight"]}, path)
    line = failure(train(data, tmp_path / "run", "--encoder-weights", path))
    assert f"{path} does not hold the weights of the encoder {ENCODER}" in line
    assert "1 unknown (such as conv.weight)" in line
    path.write_bytes(b"\x00" * 100)
    assert f"{path} is torn" in failure(train(data, tmp_path / "run", "--encoder-weights", path))
    path.with_suffix(".pt").write_text("weights")
    line = failure(train(data, tmp_path / "run", "--encoder-weights", path.with_suffix(".pt")))
    assert "(it is no file of torch.save, or holds more than tensors and plain values); fetch" in line
    assert "is a folder; name the file" in failure(train(data, tmp_path / "run", "--encoder-weights", tmp_path))
    assert "gone.pt is missing" in failure(train(data, tmp_path / "run", "--encoder-weights", tmp_path / "gone.pt"))


@pytest.mark.parametrize("arch, encoder", [("FPN", "resnet19"), ("FPN", "tu-nothing"), ("UnetPlusPlus", "mit_b0")])
def test_an_encoder_that_does_not_exist_or_suit_is_one_line(data, tmp_path, run, arch, encoder):
    options = ("--arch", arch, "--encoder", encoder, "--encoder-weights", "none")
    line = failure(run(main, "--data", data, "--outdir", tmp_path / "run", *options))
    assert f"--arch {arch} cannot be built with --encoder {encoder}" in line


def test_a_model_that_needs_larger_patches_is_one_line(data, tmp_path):
    line = failure(train(data, tmp_path / "run", "--arch", "PAN"))
    assert "--arch PAN does not take images of 32x32 pixels" in line
    assert not (tmp_path / "run" / "run.json").exists()


def test_the_architectures_are_the_librarys():
    import segmentation_models_pytorch as smp

    from aras.segmenter import ARCHITECTURES

    assert {name.lower() for name in ARCHITECTURES} == set(smp.MODEL_ARCHITECTURES_MAPPING)


def test_asking_for_a_gpu_that_is_not_there_is_one_line(data, tmp_path, run, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = failure(run(main, "--data", data, "--outdir", tmp_path / "run", "--device", "cuda"))
    assert "--device cuda: PyTorch finds no CUDA GPU" in line


# -------------------------------------------------------------------------------------------------- sets, W&B, speed


def test_synthetic_and_generated_images_join_the_real_ones(tmp_path):
    data = make_dataset(tmp_path / "ARAS400k", rgb=True, train=4, val=2, test=2, synth=3)
    shutil.copytree(data / "train" / "images", data / "train" / "generated")
    (data / "train" / "generated" / "N41E031_000_003.png").unlink()
    sets = ("--train", "train", "--train", "synth", "--train", "generated")
    result = train(data, tmp_path / "run", *sets, "--epochs", 1)
    assert result.exit_code == 0
    assert "4 train + 3 synth + 3 generated to train on, 2 val, 2 test" in result.output
    result = train(data, tmp_path / "less", *sets, "--epochs", 1, "--limit", 2)
    assert "2 train + 2 synth + 2 generated to train on, 2 val, 2 test" in result.output


def test_a_set_named_twice_is_a_usage_error(data, tmp_path):
    result = train(data, tmp_path / "run", "--train", "train", "--train", "train")
    assert result.exit_code == 2
    assert "'--train': each set once, not train, train" in result.output


def test_wandb_runs_offline_without_login_and_holds_what_the_folder_holds(data, tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(segmentation_train, "SAMPLE_EVERY", 2)
    outdir = tmp_path / "segmentation"
    result = train(data, outdir, "--epochs", 3, "--wandb", "aras-test")
    assert result.exit_code == 0
    assert "WARNING" not in result.output
    run = read_run(outdir)
    assert run.project == "aras-test"
    assert json.loads((outdir / "run.json").read_text())["options"].items() <= run.config.items()

    *epochs, last = run.history
    lines = [json.loads(line) for line in (outdir / "metrics.jsonl").read_text().splitlines()]
    for line, logged in zip(lines, epochs, strict=True):
        assert line.items() <= logged.items()
    assert ["samples" in logged for logged in epochs] == [True, False, True]
    names = sorted(path.stem for path in (data / "val" / "images").iterdir())
    assert epochs[0]["samples"]["captions"] == epochs[2]["samples"]["captions"] == names
    truth = run.files / epochs[2]["samples"]["all_masks"][0]["truth"]["path"]
    assert (np.asarray(Image.open(truth)) == read_mask(data / "val" / "masks" / f"{names[0]}.png")).all()

    found = json.loads((outdir / "test_metrics.json").read_text())
    assert last["epoch"] == 3
    assert {name: last["test"][name] for name in ("f1", "iou", "loss")}.items() <= found.items()
    assert last["test"]["class_iou"]["Water"] == found["classes"]["Water"]["iou"]
    for name in ("curves", "confusion_matrix"):
        assert (run.files / last[name]["path"]).read_bytes() == (outdir / f"{name}.png").read_bytes()


@SLOW
@pytest.mark.parametrize("processes", [1, 2])
def test_a_process_killed_at_any_moment_leaves_nothing_that_the_next_does_not_mend(data, tmp_path, processes):
    """Each is killed when it has written so many checkpoints, at each step and epoch one, or a moment later."""

    def run_of(outdir):
        return command(data, outdir, "--epochs", 3, "--batch-size", 3, "--checkpoint-minutes", 0, processes=processes)

    def state_of(last):
        return last.stat().st_ino if last.exists() else 0

    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    subprocess.run(run_of(unbroken), check=True, capture_output=True)
    last, kills = broken / "last.pt", 0
    for checkpoints, wait in ((1, 0.0), (2, 0.05), (3, 0.0), (3, 0.15), (99, 0)):
        process = subprocess.Popen(
            run_of(broken), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        before = state_of(last)
        while process.poll() is None and checkpoints:
            time.sleep(0.002)
            if state_of(last) != before:
                before, checkpoints = state_of(last), checkpoints - 1
        time.sleep(wait)
        if process.poll() is None:
            kill_all_of(process)
            kills += 1
        _, errors = process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in errors
    assert kills >= 3
    assert_same_run(broken, unbroken)


def kill_all_of(process):
    """Kill a process and those that it started, wherever they stand."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (process.pid, *map(int, children)):
        os.kill(pid, signal.SIGKILL)


@SLOW
def test_it_learns_a_world_that_can_be_learned(tmp_path, run):
    """Four epochs of 160 images reach 0.9; guessing scores 0.14 and one epoch about half."""
    data = make_dataset(tmp_path / "ARAS400k", size=(64, 64), train=160, val=24, test=24)
    options = ("--encoder", "tu-tf_efficientnet_lite0", "--encoder-weights", "none", "--batch-size", 8)
    result = run(main, "--data", data, "--outdir", tmp_path / "run", *options, "--epochs", 5, "--device", "cpu")
    assert result.exit_code == 0
    assert json.loads((tmp_path / "run" / "test_metrics.json").read_text())["f1"] > 0.85
