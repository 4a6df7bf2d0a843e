"""The script that makes images alike: what it writes, what it refuses, and what a kill leaves."""

import json
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import dataset_tool
from stylegan_dataset import ImageDataset

SCRIPT = Path(dataset_tool.__file__)


def noise(seed, width, height, mode="RGB"):
    shape = (height, width) if mode == "L" else (height, width, len(mode))
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


@pytest.fixture
def photos(tmp_path):
    """A folder of photographs of several sizes, the second in greyscale, with labels."""
    folder = tmp_path / "photos"
    (folder / "b").mkdir(parents=True)
    noise(0, 40, 30).save(folder / "a.png")
    noise(1, 30, 40, "L").save(folder / "b" / "b.jpg")
    noise(2, 64, 64).quantize(32).save(folder / "b" / "c.gif")
    (folder / "dataset.json").write_text(json.dumps({"labels": [["b/b.jpg", 2], ["a.png", 0], ["b/c.gif", 1]]}))
    return folder


def run(*arguments):
    return CliRunner().invoke(dataset_tool.main, [str(argument) for argument in arguments])


def made(*arguments):
    """Run the tool with `arguments`, which must end well."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def test_help_teaches_and_imports_nothing_slow():
    command = [sys.executable, "-X", "importtime", str(SCRIPT), "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    for word in ("Reads", "Writes", "Example", "To resume, run the same command again."):
        assert word in " ".join(result.stdout.split())
    assert "\\b" not in result.stdout
    imported = {line.split("|")[-1].strip().split(".")[0] for line in result.stderr.splitlines()}
    assert not imported & {"torch", "numpy", "PIL"}


SQUARE = ("--transform=center-crop", "--resolution=16x16")


def test_a_center_crop_is_the_middle_square_resized(photos, tmp_path):
    dest = tmp_path / "out"
    made("--source", photos, "--dest", dest, *SQUARE)
    files = sorted(path.relative_to(dest).as_posix() for path in dest.rglob("*") if path.is_file())
    assert files == [f"00000/img0000000{i}.png" for i in range(3)] + ["dataset.json"]
    wanted = Image.open(photos / "a.png").crop((5, 0, 35, 30)).resize((16, 16), Image.Resampling.LANCZOS)
    assert np.array_equal(Image.open(dest / files[0]), wanted)
    assert all(Image.open(dest / name).mode == "RGB" for name in files[:3])
    assert json.loads((dest / "dataset.json").read_text()) == {"labels": [[files[0], 0], [files[1], 2], [files[2], 1]]}
    dataset = ImageDataset(dest, cond=True)
    dataset.check(1, progress=False)
    assert dataset.labels.argmax(1).tolist() == [0, 2, 1]
    assert not list(tmp_path.glob("*.part"))


def test_a_zip_holds_the_same_and_its_bytes_do_not_depend_on_threads(photos, tmp_path):
    made("--source", photos, "--dest", tmp_path / "out", *SQUARE)
    contents = []
    for workers in (1, 3):
        dest = tmp_path / f"{workers}.zip"
        made("--source", photos, "--dest", dest, *SQUARE, "--workers", workers)
        contents.append(dest.read_bytes())
    assert contents[0] == contents[1]
    with zipfile.ZipFile(tmp_path / "1.zip") as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        for name in archive.namelist():
            assert archive.read(name) == (tmp_path / "out" / name).read_bytes()
    png = (tmp_path / "out" / "00000" / "img00000000.png").read_bytes()
    assert len(png) > 16 * 16 * 3  # uncompressed


def test_a_zip_and_a_list_are_read_like_their_folder(photos, tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in photos.rglob("*.*"):
            archive.write(path, path.relative_to(photos))
    (photos / "list.txt").write_text("b/c.gif\na.png\n")
    made("--source", photos, "--dest", tmp_path / "one.zip", *SQUARE)
    made("--source", tmp_path / "photos.zip", "--dest", tmp_path / "two.zip", *SQUARE)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    made("--source", photos / "list.txt", "--dest", tmp_path / "three.zip", *SQUARE)
    assert ImageDataset(tmp_path / "three.zip", cond=True).labels.argmax(1).tolist() == [1, 0]


def test_a_wide_crop_is_laid_on_black_and_small_images_are_left_out(photos, tmp_path):
    wide = ("--transform=center-crop-wide", "--resolution=32x24", "--resize-filter=box")
    result = made("--source", photos, "--dest", tmp_path / "out", *wide)
    assert "2 images" in result.output
    assert "1 too small" in result.output
    first = np.asarray(Image.open(tmp_path / "out" / "00000" / "img00000000.png"))
    wanted = Image.open(photos / "a.png").resize((32, 24), Image.Resampling.BOX)
    assert first.shape == (32, 32, 3)
    assert np.array_equal(first[4:28], wanted)
    assert not first[:4].any()
    assert not first[28:].any()
    labels = json.loads((tmp_path / "out" / "dataset.json").read_text())["labels"]
    assert labels == [["00000/img00000000.png", 0], ["00000/img00000001.png", 1]]


def test_images_that_are_alike_keep_their_pixels(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(3):
        noise(i, 8, 8).save(tmp_path / "in" / f"{i}.png")
    made("--source", tmp_path / "in", "--dest", tmp_path / "out", "--max-images=2")
    found = ImageDataset(tmp_path / "out")
    assert len(found) == 2
    assert np.array_equal(found[1][0], np.asarray(noise(1, 8, 8)).transpose(2, 0, 1))
    assert json.loads((tmp_path / "out" / "dataset.json").read_text()) == {"labels": None}


def test_a_greyscale_first_image_makes_a_greyscale_set(tmp_path):
    (tmp_path / "in").mkdir()
    noise(0, 8, 8, "L").save(tmp_path / "in" / "0.png")
    made("--source", tmp_path / "in", "--dest", tmp_path / "out")
    assert ImageDataset(tmp_path / "out").channels == 1
    noise(1, 8, 8).save(tmp_path / "in" / "1.png")
    result = run("--source", tmp_path / "in", "--dest", tmp_path / "other")
    assert result.exit_code == 1
    assert "1.png is in colour; the first image is greyscale" in result.output


def test_unlike_images_are_named_and_nothing_is_written(photos, tmp_path):
    noise(4, 32, 32).save(photos / "0.png")
    (photos / "dataset.json").unlink()
    result = run("--source", photos, "--dest", tmp_path / "out")
    assert result.exit_code == 1
    assert "3 of 4 images cannot be used" in result.output
    assert "a.png is 40 x 30 pixels, not square" in result.output
    assert "c.gif is 64 x 64 pixels; the first is 32 x 32" in result.output
    assert result.output.strip().count("\n") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


REFUSED = [
    (("--resolution=16"), 2, "'16' is not a resolution such as 256x256"),
    (("--resolution=0x16"), 2, "is not a resolution"),
    (("--resolution=24x24"), 2, "24 x 24 pixels, not a power of two"),
    (("--resolution=32x16"), 2, "32 x 16 pixels, not square"),
    (("--transform=center-crop"), 2, "--transform=center-crop needs --resolution=WxH"),
    (("--max-images=0"), 2, "0 is not in the range x>=1"),
]


@pytest.mark.parametrize(("option", "code", "message"), REFUSED)
def test_options_that_cannot_work(photos, tmp_path, option, code, message):
    result = run("--source", photos, "--dest", tmp_path / "out", option)
    assert result.exit_code == code
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_places_that_cannot_be_read_or_written(photos, tmp_path):
    def told(source, dest):
        result = run("--source", source, "--dest", dest, *SQUARE)
        assert result.exit_code == 1
        return result.output

    (tmp_path / "old.zip").write_bytes(b"")
    (tmp_path / "empty.txt").write_text("\n")
    assert "must be a new or empty folder" in told(photos, photos)
    assert "is there already" in told(photos, tmp_path / "old.zip")
    assert "--source: Path must point to a directory or zip" in told(tmp_path / "absent", tmp_path / "out")
    assert "names no images" in told(tmp_path / "empty.txt", tmp_path / "out")
    (photos / "b" / "c.gif").write_bytes(b"GIF89a and no more")
    assert "c.gif is not a readable image" in told(photos, tmp_path / "out")
    (photos / "b" / "c.gif").rename(photos / "d.gif")
    assert "no label for d.gif" in told(photos, tmp_path / "out")
    wide = run("--source", photos, "--dest", tmp_path / "out", "--transform=center-crop-wide", "--resolution=512x256")
    assert wide.exit_code == 1


def test_an_empty_folder_is_taken_as_dest(photos, tmp_path):
    (tmp_path / "out").mkdir()
    made("--source", photos, "--dest", tmp_path / "out", *SQUARE)
    assert len(ImageDataset(tmp_path / "out")) == 3


def test_the_current_folder_is_not_replaced(photos, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    result = run("--source", photos, "--dest", ".", *SQUARE)
    assert result.exit_code == 1
    assert "is the current folder" in result.output


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out", "out.zip"])
def test_a_killed_run_is_made_again_whole(tmp_path, name):
    (tmp_path / "in").mkdir()
    for i in range(400):
        noise(i, 64, 64).save(tmp_path / "in" / f"{i:03d}.png")
    command = [sys.executable, str(SCRIPT), "--source", str(tmp_path / "in"), "--workers=1"]
    subprocess.run([*command, "--dest", str(tmp_path / f"whole{name}")], check=True, capture_output=True)
    dest, part = tmp_path / name, tmp_path / f"{name}.part"
    killed = 0
    for wait in (0.0, 0.02, 0.05, 0.1):
        process = subprocess.Popen([*command, "--dest", str(dest)], stderr=subprocess.DEVNULL)
        while not part.exists() and process.poll() is None:
            time.sleep(0.001)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        assert not dest.exists()
    assert killed == 4
    subprocess.run([*command, "--dest", str(dest)], check=True, capture_output=True)
    assert content_of(dest) == content_of(tmp_path / f"whole{name}")
    assert not part.exists()


def content_of(path):
    """The bytes of each file of a folder, or of a zip as one."""
    if path.is_file():
        return path.read_bytes()
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
