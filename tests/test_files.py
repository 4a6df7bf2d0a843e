import errno
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from aras.command import Command
from aras.errors import UserError
from aras.files import read_json, remove_parts, sole_writer, whole_file, write_json, write_text

ROOT = Path(__file__).resolve().parent.parent


def test_a_failed_write_leaves_the_old_file_and_no_part(tmp_path):
    path = tmp_path / "table.csv"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as part:
        part.write_text("half")
        _ = 1 / 0
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "table.csv"
    write_text(path, "old")
    code = "import os, signal, sys; from pathlib import Path; from aras.files import whole_file\n"
    code += "with whole_file(Path(sys.argv[1])) as part: part.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, check=False)
    assert path.read_text() == "old"
    remove_parts(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_json_goes_there_and_back_and_damage_is_named(tmp_path):
    write_json(tmp_path / "a.json", {"Türkiye": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == {"Türkiye": [1, 2.5, None]}
    (tmp_path / "b.json").write_text('{"half": ')
    with pytest.raises(UserError, match=r"b\.json"):
        read_json(tmp_path / "b.json")


@pytest.mark.parametrize(("name", "is_file"), [("folder", False), ("folder.v2", False), ("table.csv", True)])
def test_one_writer_at_a_time_and_the_lock_dies_with_its_process(tmp_path, name, is_file):
    target = tmp_path / name
    code = "import sys; from pathlib import Path; from aras.files import sole_writer\n"
    code += "with sole_writer(Path(sys.argv[1]), len(sys.argv) > 2): print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, target, *(["file"] if is_file else [])],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match="another process"), sole_writer(target, is_file):
        pytest.fail("the lock was given twice")
    holder.kill()
    holder.communicate()
    with sole_writer(target, is_file):
        assert target.parent.exists()


def test_a_full_disk_is_one_line_with_a_remedy(run):
    @click.command(cls=Command)
    def main():
        with Path("/dev/full").open("w") as file:
            file.write("x" * 100_000)

    result = run(main)
    assert result.exit_code == 1
    assert result.output.count("\n") == 1
    assert "No space left on device; free some disk space, then run the same command again" in result.output


def test_a_missing_permission_names_the_file(run):
    @click.command(cls=Command)
    def main():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "some/file.png")

    assert "some/file.png: Permission denied; make it readable" in run(main).output


def test_a_bug_keeps_its_traceback(run):
    @click.command(cls=Command)
    def main():
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        run(main)


def test_two_that_write_the_same_file_do_not_meet(tmp_path):
    path = tmp_path / "file"
    with whole_file(path, alone=False) as one:
        one.write_bytes(b"whole")
        with whole_file(path, alone=False) as other:
            other.write_bytes(b"who")
        assert path.read_bytes() == b"who"
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]
    path.with_name("file.0123abc.part").write_bytes(b"left by a kill")
    remove_parts(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
