"""Who may write: the workers of the run whose turn it is, and nobody before they have ended."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from aras.errors import UserError
from aras.fencing import Fence, new_fence

ROOT = Path(__file__).resolve().parent.parent
HOLDER = """
import sys, time
from pathlib import Path
from aras.fencing import Fence
with Fence(Path(sys.argv[1]), sys.argv[2]).writing():
    print("writing", flush=True)
    time.sleep(60 if sys.argv[3] == "long" else 1)
    Path(sys.argv[1]).with_name("written").touch()
"""


def holder(fence, how):
    """Start a worker in another process that writes under `fence`."""
    command = [sys.executable, "-c", HOLDER, str(fence.path), fence.token, how]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    return process


def test_workers_of_an_earlier_run_write_nothing_more(tmp_path):
    first = new_fence(tmp_path / ".progress")
    with first.writing(), first.writing():  # many at a time
        pass
    second = new_fence(tmp_path / ".progress")
    with pytest.raises(UserError, match=f"another run writes to {tmp_path} by now"), first.writing():
        pytest.fail("wrote under an old token")
    with second.writing():
        pass
    second.path.write_text("half a tok")  # of a run that was killed right here
    with new_fence(tmp_path / ".progress").writing():
        pass


def test_the_next_run_waits_for_what_is_being_written(tmp_path):
    process = holder(new_fence(tmp_path / ".progress"), "short")
    new_fence(tmp_path / ".progress")
    assert (tmp_path / ".progress" / "written").exists()
    assert process.wait() == 0


def test_a_killed_worker_is_not_waited_for(tmp_path):
    process = holder(new_fence(tmp_path / ".progress"), "long")
    process.kill()
    process.wait()
    began = time.monotonic()
    new_fence(tmp_path / ".progress")
    assert time.monotonic() - began < 5


def test_a_writer_that_does_not_end_is_one_line(tmp_path, monkeypatch):
    fence = new_fence(tmp_path / ".progress")
    monkeypatch.setattr("aras.fencing.PATIENCE", 0.2)
    with fence.writing(), pytest.raises(UserError, match="workers of an earlier run still write"):
        new_fence(tmp_path / ".progress")


def test_a_deleted_output_is_written_by_none(tmp_path):
    with pytest.raises(FileNotFoundError), Fence(tmp_path / "gone" / "writer", "token").writing():
        pytest.fail("wrote")
    assert not (tmp_path / "gone").exists()
