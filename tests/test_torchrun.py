"""The trainer under torchrun: two processes, joined by gloo, train what one process trains."""

import json
import os
import re
import signal
import subprocess
import zipfile

import numpy as np
import pytest
from clusters import children_of, command_of, free_port, until
from tiny_dataset import make_dataset
from tiny_training import ENCODER, command, same, tensors_of, train

pytestmark = pytest.mark.slow

SETTING = ("--arch", "Unet", "--lr", 1e-5, "--epochs", 2, "--eval-batch-size", 2)
"""No dropout, whose draws a rank has of its own. The rate is low because of Adam: a weight on which the loss does not
depend, such as a bias before batch normalisation, has rounding noise for a gradient, and Adam takes a whole step of it.
"""

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
"""torchrun sees to that for two processes of a node, not for one, and other threads add up in another order."""

PREDICTIONS = f"ARAS400k_Unet_{ENCODER}.zip"


def run(data, outdir, *more):
    told = command(data, outdir, *SETTING, *more, processes=2)
    return subprocess.run(told, capture_output=True, text=True, check=False, timeout=300, env=ENVIRONMENT)


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


def test_a_file_that_one_of_them_cannot_read_ends_all_with_one_line(tmp_path):
    data = make_dataset(tmp_path / "ARAS400k", train=8, val=2, test=2)
    bad = data / "train" / "masks" / "N41E031_000_003.png"
    bad.write_bytes(b"no image")
    result = run(data, tmp_path / "run")
    assert result.returncode != 0
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("Error"))
    assert str(bad) in line


def test_what_all_of_them_find_is_told_once(tmp_path, data):
    result = run(tmp_path / "nowhere", tmp_path / "run")
    assert result.returncode != 0
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("Error"))
    assert "nowhere is not a folder" in line


# ---------------------------------------------------------------------------------------------------- elastic restart


@pytest.fixture(scope="module")
def more_data(tmp_path_factory):
    """Ten steps an epoch: time to be killed in the middle."""
    return make_dataset(tmp_path_factory.mktemp("more") / "ARAS400k", train=39, val=3, test=3)


@pytest.fixture(scope="module")
def unbroken(more_data, tmp_path_factory):
    """The folder of a run by two processes in which nothing happens."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    assert run(more_data, folder).returncode == 0
    return folder


def elastic(data, outdir, *torchrun, **environment):
    """Start two processes that torchrun starts again; they save at every step."""
    told = command(data, outdir, *SETTING, "--checkpoint-minutes", 0, processes=2)
    at = told.index("--standalone")
    told[at : at + 1] = map(str, (*torchrun, "--max-restarts", 2))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(told, **pipes, text=True, env={**ENVIRONMENT, **environment})


def in_the_second_epoch(outdir):
    """Return whether the run in `outdir` has done one epoch and the first steps of the next."""
    if not (outdir / "last.pt").exists():
        return False
    numbers = tensors_of(outdir / "last.pt")["numbers"]
    return numbers["epoch"] == 1 and numbers["step"] >= 2


def assert_same_result(outdir, unbroken):
    for name in ("best.pt", "last.pt"):
        assert same(tensors_of(outdir / name), tensors_of(unbroken / name)), name
    for name in ("test_metrics.json", PREDICTIONS):
        assert (outdir / name).read_bytes() == (unbroken / name).read_bytes(), name


@pytest.mark.parametrize("which", ["first", "last"])
def test_torchrun_goes_on_from_the_last_checkpoint_after_a_kill(more_data, unbroken, tmp_path, which):
    process = elastic(more_data, tmp_path / "run", "--standalone")
    until(lambda: process.poll() is not None or in_the_second_epoch(tmp_path / "run"), "the second epoch", 300)
    ranks = sorted(child for child in children_of(process.pid) if "segmentation_train.py" in command_of(child))
    os.kill(ranks[0 if which == "first" else -1], signal.SIGKILL)
    told = process.communicate(timeout=300)[0]
    assert process.returncode == 0, told
    assert re.search(r"in 2 processes, 1 epochs and [2-9] steps done before", told)
    assert_same_result(tmp_path / "run", unbroken)


def two_nodes():
    """Return how torchrun is told that it is one of two nodes, each with one process."""
    where = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", "two")
    return ("--nnodes", 2, "--nproc-per-node", 1, "--local-addr", "127.0.0.1", *where)


def test_a_node_that_was_lost_and_comes_back_goes_on(more_data, unbroken, tmp_path):
    """Two agents of torchrun stand for two nodes. The first one keeps the place where they meet."""
    fresh = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    where, outdir = two_nodes(), tmp_path / "run"
    nodes = [elastic(more_data, outdir, *where, "--rdzv-conf", f"is_host={host}", **fresh) for host in (1, 0)]
    until(lambda: nodes[0].poll() is not None or in_the_second_epoch(outdir), "the second epoch", 300)
    for pid in (nodes[1].pid, *children_of(nodes[1].pid)):
        os.kill(pid, signal.SIGKILL)
    nodes[1].communicate()
    nodes[1] = elastic(more_data, outdir, *where, "--rdzv-conf", "is_host=0", **fresh)
    told = "".join(node.communicate(timeout=300)[0] for node in nodes)
    assert [node.returncode for node in nodes] == [0, 0], told
    assert re.search(r"in 2 processes, 1 epochs and \d+ steps done before", told)
    assert_same_result(outdir, unbroken)


def test_nodes_that_could_not_meet_again_are_told_so(more_data, tmp_path):
    where = two_nodes()
    nodes = [elastic(more_data, tmp_path / "run", *where) for _ in range(2)]
    told = [node.communicate(timeout=120)[0] for node in nodes]
    assert all(node.returncode for node in nodes)
    assert all("with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the environment" in one for one in told)
