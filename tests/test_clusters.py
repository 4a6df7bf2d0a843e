"""Real clusters on this machine: what comes out is what one process makes, whatever is killed."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from clusters import Dask, cluster, until
from fake_world import PER_DEGREE, make_world
from test_dataset_creator import content

from aras.engines import Engine, each_unordered
from aras.errors import UserError
from aras.fencing import new_fence
from aras.files import sole_writer, write_text

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module", params=["dask", "ray"])
def workers(request, tmp_path_factory):
    with cluster(request.param, tmp_path_factory.mktemp(request.param)) as started:
        yield started


@pytest.fixture(scope="module")
def large_world(tmp_path_factory):
    """Raw tiles that take several seconds to cut."""
    folder = tmp_path_factory.mktemp("large_world")
    make_world(folder, per_degree=4 * PER_DEGREE)
    return folder


@pytest.fixture(scope="module")
def unbroken(large_world, tmp_path_factory):
    """What one process makes of them."""
    output = tmp_path_factory.mktemp("unbroken") / "ARAS400k"
    subprocess.run(command(large_world, output, "--workers", 1), check=True, capture_output=True)
    return content(output)


def command(world, output, *more):
    told = ("--s2", world / "S2RGB_2021", "--worldcover", world / "worldcover_2021", "--output", output)
    return [str(word) for word in (sys.executable, ROOT / "dataset_creator.py", *told, "--patch-size", 64, *more)]


def images(output):
    return sum(1 for _ in output.rglob("*.png"))


def begun(world, output, workers):
    """Start the slicer on the cluster, and return it when it has written some dozens of files."""
    process = subprocess.Popen(command(world, output, *workers.options), stderr=subprocess.PIPE, text=True)
    until(lambda: process.poll() is not None or images(output) > 50, "the first images")
    assert process.poll() is None, process.communicate()[1]
    return process


# ------------------------------------------------------------------------------------------------------- any function


def test_every_item_is_done_once(workers, tmp_path):
    items = [tmp_path / f"{number}.txt" for number in range(60)]
    written = each_unordered(workers.engine, partial(write_text, text="done"), items, 1, sees=(tmp_path,))
    assert list(written) == [None] * 60
    assert {path.read_text() for path in items} == {"done"}


def test_what_the_work_raises_is_raised_here(workers, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.txt"):
        list(each_unordered(workers.engine, Path.read_text, [tmp_path / "absent.txt"], 1))
    (tmp_path / "held").mkdir()
    with pytest.raises(ZeroDivisionError):
        list(each_unordered(workers.engine, partial(divmod, 1), [0], 1))


def test_a_worker_that_does_not_see_a_file_says_so(workers, tmp_path):
    with pytest.raises(UserError, match=f"the worker on .* does not see {tmp_path}/elsewhere"):
        list(each_unordered(workers.engine, os.fspath, ["a"], 1, sees=(tmp_path / "elsewhere",)))


def test_an_item_that_no_worker_survives_ends_the_run(workers):
    with pytest.raises(UserError, match="workers were lost again and again over the same item"):
        list(each_unordered(workers.engine, os._exit, [9], 1))


def test_only_a_few_items_are_at_hand(workers):
    taken = []

    class Items(list):
        def __iter__(self):
            for number in range(10_000):
                taken.append(number)
                yield number

    with closing(each_unordered(workers.engine, abs, Items([0]), 1)) as done:
        for _ in range(50):
            next(done)
    assert len(taken) < 200


@pytest.mark.parametrize("name", ["dask", "ray"])
def test_a_cluster_that_is_not_there_is_one_line_within_seconds(name):
    engine = Engine(name, "tcp://127.0.0.1:1" if name == "dask" else "127.0.0.1:1")
    began = time.monotonic()
    with pytest.raises(UserError, match=r"answers at (tcp://)?127\.0\.0\.1:1 .*check --"):
        list(each_unordered(engine, abs, [1], 1))
    assert time.monotonic() - began < 15


def test_other_code_on_a_worker_is_one_line(tmp_path):
    shutil.copytree(ROOT / "aras", tmp_path / "aras", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "aras" / "patches.py").open("a") as file:
        file.write("# another state\n")
    other = Dask(tmp_path, workers=1, PYTHONPATH=str(tmp_path))
    try:
        with pytest.raises(UserError, match=f"runs other code than this machine, from {tmp_path}"):
            list(each_unordered(other.engine, abs, [1], 1))
    finally:
        other.stop()


# ----------------------------------------------------------------------------------------------------------- slicing


def test_the_same_bytes_on_a_cluster(workers, world, tmp_path, run):
    import dataset_creator

    for name, options in (("here", ("--workers", 1)), ("there", workers.options)):
        sources = ("--s2", world / "S2RGB_2021", "--worldcover", world / "worldcover_2021")
        result = run(dataset_creator.main, *sources, "--output", tmp_path / name, "--patch-size", 64, *options)
        assert result.exit_code == 0, result.output
    assert content(tmp_path / "there") == content(tmp_path / "here")


def test_a_killed_worker_does_no_harm(workers, large_world, unbroken, tmp_path):
    process = begun(large_world, tmp_path / "out", workers)
    workers.kill_worker()
    told = process.communicate()[1]
    assert process.returncode == 0, told
    assert content(tmp_path / "out") == unbroken


def test_after_a_killed_run_the_same_command_ends_the_same(workers, large_world, unbroken, tmp_path):
    process = begun(large_world, tmp_path / "out", workers)
    process.kill()
    process.wait()
    again = subprocess.run(
        command(large_world, tmp_path / "out", *workers.options), capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert content(tmp_path / "out") == unbroken


def test_a_lost_scheduler_is_one_line_and_another_engine_goes_on(large_world, unbroken, tmp_path):
    with cluster("dask", tmp_path) as dask:
        process = begun(large_world, tmp_path / "out", dask)
        dask.scheduler.kill()
        told = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert re.findall(r"^Error: the Dask scheduler at \S+ was lost; .*run the same command again$", told, re.M)
    assert "Traceback" not in told
    again = subprocess.run(command(large_world, tmp_path / "out"), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert content(tmp_path / "out") == unbroken


def test_ctrl_c_leaves_the_cluster_idle(workers, large_world, tmp_path):
    process = begun(large_world, tmp_path / "out", workers)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert told.rstrip().endswith("Aborted!")
    with sole_writer(tmp_path / "out"):
        new_fence(tmp_path / "out" / ".progress")  # waits for what has been begun
        before = images(tmp_path / "out")
        time.sleep(2)
        assert images(tmp_path / "out") == before
