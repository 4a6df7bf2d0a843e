"""Images and videos of a generator, drawn as their users draw them."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_snapshot import save_snapshot_of

import gen_video
from gen_images import main
from stylegan_equivariance import input_transform
from stylegan_files import sole_writer, whole_file
from stylegan_official import load_networks
from stylegan_seeds import Seeds

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return save_snapshot_of(tmp_path_factory.mktemp("network") / "net.safetensors")


@pytest.fixture
def draw(run, network):
    """Run the script on the CPU; return click's result."""

    def invoke(outdir, *more, network=network):
        return run(main, "--network", network, "--outdir", outdir, "--device", "cpu", *more)

    return invoke


def pixels(path):
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.array(image)


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def by_hand(network, seed, **options):
    """Return the image (H, W, 3) of `seed`, from the definitions alone."""
    G = load_networks(network).G_ema
    z = torch.from_numpy(np.random.RandomState(seed).randn(1, G.z_dim)).float()
    with torch.no_grad():
        image = G(z, **({"noise_mode": "const"} | options))[0].double().numpy()
    return np.clip(np.floor(image * 127.5 + 128), 0, 255).transpose(1, 2, 0)


def assert_alike(image, wanted):
    """Sums of floats depend on how many images a convolution sees, which can move a pixel by one."""
    difference = np.abs(image.astype(float) - wanted)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01
    assert wanted.std() > 2  # and it is not one grey


def test_images_are_those_of_their_seeds(network, draw, tmp_path):
    assert draw(tmp_path / "out", "--seeds", "3,10-11").exit_code == 0
    found = {path.name: pixels(path) for path in (tmp_path / "out").iterdir()}
    assert sorted(found) == ["seed0003.png", "seed0010.png", "seed0011.png"]
    for seed in (3, 10, 11):
        assert_alike(found[f"seed{seed:04d}.png"], by_hand(network, seed))
    assert draw(tmp_path / "out", "--seeds", "3", "--trunc", "0.5").exit_code == 0
    assert_alike(pixels(tmp_path / "out" / "seed0003.png"), by_hand(network, 3, truncation=0.5))


def test_noise_is_the_same_or_each_image_s_own_or_none(network, draw, tmp_path):
    for mode, more in (("random", {"noise_seeds": [5]}), ("none", {})):
        assert draw(tmp_path / mode, "--seeds", "4,5", "--noise-mode", mode).exit_code == 0
        assert_alike(pixels(tmp_path / mode / "seed0005.png"), by_hand(network, 5, noise_mode=mode, **more))
    assert draw(tmp_path / "alone", "--seeds", "5", "--noise-mode", "random").exit_code == 0
    name = "seed0005.png"
    assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "random" / name).read_bytes()


@pytest.fixture(scope="module")
def whole(network, tmp_path_factory):
    """What an unbroken run draws of seeds 0 to 22."""
    from click.testing import CliRunner

    folder = tmp_path_factory.mktemp("whole") / "images"
    words = ("--network", network, "--outdir", folder, "--device", "cpu", "--count", "23", "--batch", "8")
    assert CliRunner().invoke(main, list(map(str, words))).exit_code == 0
    return files_of(folder)


def test_a_set_is_named_by_seed(network, whole, tmp_path):
    assert list(whole) == [f"{seed:06d}.png" for seed in range(23)]
    (tmp_path / "image.png").write_bytes(whole["000021.png"])
    assert_alike(pixels(tmp_path / "image.png"), by_hand(network, 21))


@pytest.mark.parametrize("options", [("--batch", 5), ("--batch", 1), ("--batch", 64, "--first", 3)])
def test_an_image_of_a_set_depends_on_its_seed_alone(draw, whole, tmp_path, options):
    count = 20 if "--first" in options else 23
    assert draw(tmp_path / "images", "--count", count, *options).exit_code == 0
    assert files_of(tmp_path / "images") == dict(list(whole.items())[23 - count :])


def test_a_set_goes_on_where_it_stopped_and_can_grow(draw, whole, tmp_path):
    folder = tmp_path / "synth" / "images"
    assert draw(folder, "--count", 9, "--batch", 4).exit_code == 0
    kept = (folder / "000002.png").stat().st_mtime_ns
    for name in ("000000.png", "000005.png", "000008.png"):
        (folder / name).unlink()
    (folder / "000005.png.part").write_bytes(b"half")
    result = draw(folder, "--count", 23, "--batch", 4)
    assert result.exit_code == 0
    assert "23 images, 6 are there, 17 to draw" in result.output
    assert files_of(folder) == whole
    assert (folder / "000002.png").stat().st_mtime_ns == kept
    assert not list(folder.glob("*.part"))
    record = json.loads((tmp_path / "synth" / "images.run.json").read_text())
    assert record["options"]["count"] == 23
    assert record["options"]["trunc"] == 1.0


def test_one_folder_has_images_of_one_network_and_one_set_of_options(draw, whole, tmp_path):
    folder = tmp_path / "images"
    assert draw(folder, "--count", 3).exit_code == 0
    other = save_snapshot_of(tmp_path / "other.safetensors", path="elsewhere")
    for more, told in (
        (("--trunc", 0.7), "trunc was 1.0, now 0.7"),
        (("--noise-mode", "none"), "noise_mode was const, now none"),
    ):
        result = draw(folder, "--count", 3, *more)
        assert result.exit_code == 1
        assert f"holds images made otherwise ({told})" in result.output
    result = draw(folder, "--count", 3, network=other)
    assert result.exit_code == 1
    assert "network_sha256 was" in result.output
    assert "holds a set of --count" in draw(folder, "--seeds", "1").output
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "mine.png").write_bytes(whole["000000.png"])
    result = draw(foreign, "--count", 3)
    assert result.exit_code == 1
    assert "no foreign.run.json tells of" in result.output
    assert [path.name for path in foreign.glob("*.png")] == ["mine.png"]


def test_two_runs_do_not_write_to_one_folder(draw, tmp_path):
    with sole_writer(tmp_path / "images"):
        result = draw(tmp_path / "images", "--count", 3)
    assert result.exit_code == 1
    assert "another process is writing" in result.output


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.1, 0.3, 0.6])
def test_a_killed_set_ends_as_an_unbroken_one(network, tmp_path, seconds):
    folder = tmp_path / "images"
    words = ("--network", network, "--outdir", folder, "--count", 1500, "--batch", 8, "--device", "cpu")
    command = [sys.executable, "stylegan3/gen_images.py", *map(str, words)]
    quiet = {"cwd": ROOT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    process = subprocess.Popen(command, **quiet)
    while process.poll() is None and not list(folder.glob("*.png")):
        time.sleep(0.01)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert len(list(folder.glob("*.png"))) < 1500
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    shutil.copytree(folder, tmp_path / "first")
    shutil.rmtree(folder)
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert files_of(folder) == files_of(tmp_path / "first")
    assert len(files_of(folder)) == 1500


@pytest.mark.slow
def test_two_processes_draw_what_one_draws(draw, whole, tmp_path):
    assert draw(tmp_path / "images", "--count", 23, "--batch", 4, "--gpus", 2).exit_code == 0
    assert files_of(tmp_path / "images") == whole


def test_networks_with_labels_need_a_class_and_others_take_none(draw, tmp_path):
    assert "trained without labels" in draw(tmp_path / "out", "--seeds", "1", "--class", 0).output
    network = save_snapshot_of(tmp_path / "labels.safetensors", c_dim=3)
    result = draw(tmp_path / "out", "--seeds", "1", network=network)
    assert result.exit_code == 1
    assert "Must specify class label with --class when using a conditional network" in result.output
    assert "the classes 0 to 2" in draw(tmp_path / "out", "--seeds", "1", "--class", 3, network=network).output
    assert draw(tmp_path / "out", "--seeds", "1", "--class", 2, network=network).exit_code == 0
    assert_alike(pixels(tmp_path / "out" / "seed0001.png"), by_hand(network, 1, c=torch.tensor([[0.0, 0, 1]])))


def test_images_of_stylegan3_can_be_moved_and_turned(draw, tmp_path):
    network = save_snapshot_of(tmp_path / "t.safetensors", "stylegan3-t")
    motion = ("--translate", "0.25,-0.5", "--rotate", 90)
    assert draw(tmp_path / "out", "--seeds", "1", *motion, network=network).exit_code == 0
    G = load_networks(network).G_ema
    G.synthesis.input.transform.copy_(input_transform(0.25, -0.5, np.pi / 2))
    z = torch.from_numpy(np.random.RandomState(1).randn(1, G.z_dim)).float()
    with torch.no_grad():
        image = G(z)[0].double().numpy()
    wanted = np.clip(np.floor(image * 127.5 + 128), 0, 255).transpose(1, 2, 0)
    assert_alike(pixels(tmp_path / "out" / "seed0001.png"), wanted)


def test_images_of_stylegan2_cannot(draw, tmp_path):
    result = draw(tmp_path / "out", "--seeds", "1", "--rotate", 10)
    assert result.exit_code == 1
    assert "need a network of StyleGAN3" in result.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "Give --seeds"),
        (("--seeds", "1", "--count", "2"), "Give --seeds"),
        (("--seeds", "1,x"), "'x' is no seed"),
        (("--seeds", "5-2"), "'5-2' goes down"),
        (("--seeds", "0-4294967295"), "more than 1,000,000 seeds"),
        (("--seeds", "4294967296"), "is no seed from 0 to 4294967295"),
        (("--seeds", "1", "--gpus", "2"), "are for --count"),
        (("--count", "2", "--first", "4294967295"), "beyond the largest seed"),
        (("--seeds", "1", "--translate", "1"), "is not two numbers"),
        (("--seeds", "1", "--rotate", "nan"), "is not a finite number"),
    ],
)
def test_wrong_usage_is_told(draw, tmp_path, words, told):
    result = draw(tmp_path / "out", *words)
    assert result.exit_code == 2
    assert told in result.output
    assert not (tmp_path / "out").exists()


def test_a_seed_that_is_named_often_is_drawn_once(draw, tmp_path):
    assert draw(tmp_path / "out", "--seeds", ",".join(["1"] * 40), "--batch", 40).exit_code == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["seed0001.png"]


def test_the_current_folder_takes_a_set(draw, whole, tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path / "images")
    assert draw(".", "--count", 2, "--batch", 8).exit_code == 0
    assert files_of(tmp_path / "images") == dict(list(whole.items())[:2])
    assert (tmp_path / "images.run.json").exists()


def test_a_disk_that_refuses_is_told_with_the_file(tmp_path):
    path = tmp_path / "image.png"
    with pytest.raises(OSError, match="No space left") as told, whole_file(path) as part:
        part.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert told.value.filename == str(path)
    assert not list(tmp_path.iterdir())


def test_seeds_are_numbers_and_ranges():
    assert Seeds().convert("0,1,4-6", None, None) == [0, 1, 4, 5, 6]


def test_a_network_that_is_missing_or_torn_is_told(draw, network, tmp_path):
    (tmp_path / "torn.safetensors").write_bytes(network.read_bytes()[:-9])
    for name in ("missing.safetensors", "torn.safetensors"):
        for words in (("--seeds", "1"), ("--count", "2")):
            result = draw(tmp_path / "out", *words, network=tmp_path / name)
            assert result.exit_code == 1
            (line,) = [line for line in result.output.splitlines() if line.startswith("Error")]
            assert name in line


# ---------------------------------------------------------------------------------------------- gen_video.py


def decoded(path):
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 60)
        return [frame.to_ndarray(format="rgb24").astype(float) for frame in container.decode(stream)]


def test_a_video_goes_from_seed_to_seed_and_closes(run, network, tmp_path):
    options = ("--network", network, "--device", "cpu", "--grid", "2x1", "--seeds", "0-5", "--w-frames", 4)
    assert run(gen_video.main, *options, "--output", tmp_path / "v.mp4").exit_code == 0
    frames = decoded(tmp_path / "v.mp4")
    assert len(frames) == 3 * 4
    assert frames[0].shape == (16, 32, 3)
    for keyframe in range(3):
        wanted = np.concatenate([by_hand(network, seed) for seed in (keyframe, 3 + keyframe)], axis=1)
        error = np.square(frames[4 * keyframe].mean(2) - wanted.mean(2)).mean()  # colours have half the resolution
        assert error < 0.2 * wanted.mean(2).var()
    steps = [np.abs(a - b).mean() for a, b in zip(frames, [*frames[1:], frames[0]], strict=True)]
    assert max(steps) < 4 * np.mean(steps)
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]


def test_keyframes_go_through_the_seeds_as_often_as_needed():
    assert gen_video.seeds_of_cells([7, 8, 9], 2, 2, None).tolist() == [[7, 8], [9, 7]]
    shuffled = [gen_video.seeds_of_cells(list(range(8)), 2, None, seed).flatten().tolist() for seed in (1, 1, 2)]
    assert shuffled[0] == shuffled[1] != shuffled[2]
    assert sorted(shuffled[0]) == sorted(shuffled[2]) == list(range(8))


def test_one_keyframe_is_a_picture_that_stands_still(run, network, tmp_path):
    options = ("--network", network, "--device", "cpu", "--seeds", "3", "--w-frames", 3)
    assert run(gen_video.main, *options, "--output", tmp_path / "v.mp4").exit_code == 0
    assert len(decoded(tmp_path / "v.mp4")) == 3


def test_what_a_video_cannot_be_made_of_is_told(run, network, tmp_path, monkeypatch):
    options = ("--network", network, "--device", "cpu", "--output", tmp_path / "v.mp4")
    result = run(gen_video.main, *options, "--seeds", "0-4", "--grid", "2x2")
    assert result.exit_code == 1
    assert "5 seeds do not fill a grid of 4 evenly" in result.output
    assert run(gen_video.main, *options, "--seeds", "0", "--grid", "2").exit_code == 2
    monkeypatch.setitem(sys.modules, "av", None)
    result = run(gen_video.main, *options, "--seeds", "0")
    assert result.exit_code == 1
    assert "encodes by the library PyAV" in result.output
    assert not list(tmp_path.iterdir())
