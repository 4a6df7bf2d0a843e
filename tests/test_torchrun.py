"""The trainer under torchrun: two processes, joined by gloo, train what one process trains."""

import json
import subprocess
import zipfile

import numpy as np
import pytest
from tiny_dataset import make_dataset
from tiny_training import ENCODER, command, same, tensors_of, train

SETTING = ("--arch", "Unet", "--lr", 1e-5, "--epochs", 2, "--eval-batch-size", 2)
"""No dropout, whose draws a rank has of its own. The rate is low because of Adam: a weight on which the loss does not
depend, such as a bias before batch normalisation, has rounding noise for a gradient, and Adam takes a whole step of it.
"""

PREDICTIONS = f"ARAS400k_Unet_{ENCODER}.zip"


def run(data, outdir, *more):
    told = command(data, outdir, *SETTING, *more, processes=2)
    return subprocess.run(told, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The last batch has three of four images, the last round of the test split one batch for two processes."""
    return make_dataset(tmp_path_factory.mktemp("tiny") / "ARAS400k", train=11, val=5, test=5)


@pytest.fixture(scope="module")
def both(data, tmp_path_factory):
    """The folders of a run by one process, and of one by two."""
    folder = tmp_path_factory.mktemp("runs")
    assert train(data, folder / "one", *SETTING).exit_code == 0
    result = run(data, folder / "two")
    assert result.returncode == 0, result.stderr
    told = [line.split()[:2] for line in result.stdout.splitlines() if line.startswith("epoch")]
    assert told == [["epoch", "1/2"], ["epoch", "2/2"]]
    return folder / "one", folder / "two"


def test_two_processes_have_the_epochs_of_one(both):
    """Losses differ by what the order of float32 sums does to them, and scores by the few pixels on an edge."""
    one, two = ([json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()] for f in both)
    assert len(one) == len(two) == 2
    for alone, shared in zip(one, two, strict=True):
        for name, tolerance in (("train_loss", 1e-4), ("val_loss", 1e-4), ("f1", 2e-3), ("accuracy", 2e-3)):
            assert shared[name] == pytest.approx(alone[name], abs=tolerance), name


def test_two_processes_test_as_one(both):
    one, two = (json.loads((folder / "test_metrics.json").read_text()) for folder in both)
    matrices = [np.array(found["confusion_matrix"]) for found in (one, two)]
    assert matrices[0].sum() == matrices[1].sum() == 5 * 32 * 32
    assert np.abs(matrices[0] - matrices[1]).sum() / 2 <= 0.005 * matrices[0].sum()
    assert two["tiles"][0]["images"] == two["images"] == 5
    archives = [zipfile.ZipFile(folder / PREDICTIONS) for folder in both]
    names = archives[0].namelist()
    assert archives[1].namelist() == names == [f"pred_N41E031_000_00{i}.png" for i in range(5)]
    sizes = [len(archive.read(names[-1])) for archive in archives]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.2)  # the last image is no filling


@pytest.mark.slow
def test_two_processes_go_on_from_where_two_were_stopped(both, data, tmp_path):
    assert run(data, tmp_path / "run", "--epochs", 1).returncode == 0
    again = run(data, tmp_path / "run")
    assert again.returncode == 0, again.stderr
    assert "Unet with tu-test_efficientnet on cpu in 2 processes, 1 epochs done before" in again.stdout
    for name in ("best.pt", "last.pt"):
        assert same(tensors_of(tmp_path / "run" / name), tensors_of(both[1] / name))
    for name in ("test_metrics.json", PREDICTIONS):
        assert (tmp_path / "run" / name).read_bytes() == (both[1] / name).read_bytes()
    assert "Finished already" in run(data, tmp_path / "run").stdout


@pytest.mark.slow
def test_a_file_that_one_of_them_cannot_read_ends_all_with_one_line(tmp_path):
    data = make_dataset(tmp_path / "ARAS400k", train=8, val=2, test=2)
    bad = data / "train" / "masks" / "N41E031_000_003.png"
    bad.write_bytes(b"no image")
    result = run(data, tmp_path / "run")
    assert result.returncode != 0
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("Error"))
    assert str(bad) in line


@pytest.mark.slow
def test_what_all_of_them_find_is_told_once(tmp_path, data):
    result = run(tmp_path / "nowhere", tmp_path / "run")
    assert result.returncode != 0
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("Error"))
    assert "nowhere is not a folder" in line
