"""train.py of stylegan3, run as its users run it, on images that fit a few seconds."""

import json
import resource
import shutil
import signal
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_stylegan import (
    NAME,
    assert_same_run,
    command,
    failure,
    invoke,
    make_images,
    same,
    state_of,
    timeless,
    train,
)

import stylegan_loop
from stylegan_files import sole_writer
from stylegan_snapshot import load_snapshot

FIRST, SECOND = f"00000-{NAME}", f"00001-{NAME}"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("tiny") / "images")


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    """The run folder of a training without an interruption."""
    outdir = tmp_path_factory.mktemp("unbroken")
    result = train(data, outdir)
    assert result.exit_code == 0, result.output
    return outdir / FIRST


@pytest.fixture
def copied(unbroken, tmp_path):
    """A copy of the finished run, to spoil or to go on with."""
    shutil.copytree(unbroken, tmp_path / "out" / FIRST)
    return tmp_path / "out"


def cut_at(monkeypatch, name, call, owner=stylegan_loop):
    """Have a run end before the `call`-th call of a function, as a kill there would."""
    function, calls = getattr(owner, name), []

    def cut(*arguments, **options):
        calls.append(name)
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    monkeypatch.setattr(owner, name, cut)


# ---------------------------------------------------------------------------------------------- what a run leaves


def test_the_run_folder_tells_the_run(unbroken):
    files = {path.name for path in unbroken.iterdir() if not path.name.startswith((".", "events.out.tfevents."))}
    snapshots = {f"network-snapshot-{kimg:06}.{kind}" for kimg in (0, 1) for kind in ("json", "safetensors")}
    grids = {"reals.png", "fakes_init.png", "fakes000000.png", "fakes000001.png"}
    state = {"training-state.pt", "training-state.json"}
    assert files == snapshots | grids | state | {"training_options.json", "log.txt", "stats.jsonl"}
    assert len(list(unbroken.glob("events.out.tfevents.*"))) == 1
    told = json.loads((unbroken / "training_options.json").read_text())
    assert told["options"]["batch"] == told["batch"] == 60
    assert told["ema"] == {"kimg": 18.75, "rampup": 0.05}
    assert "tick 1     kimg 1.0" in (unbroken / "log.txt").read_text()
    with Image.open(unbroken / "fakes000001.png") as grid:
        assert grid.size == (8 * 16, 8 * 16)


def test_each_tick_tells_every_key(unbroken):
    lines = [json.loads(line) for line in (unbroken / "stats.jsonl").read_text().splitlines()]
    assert [line["Progress/kimg"]["mean"] for line in lines] == [0.06, 1.02]
    losses = {f"Loss/{name}" for name in ("scores/fake", "signs/fake", "G/loss", "pl_penalty", "G/reg", "scores/real")}
    losses |= {f"Loss/{name}" for name in ("signs/real", "D/loss", "r1_penalty", "D/reg")}
    progress = {"Progress/tick", "Progress/kimg", "Progress/augment"}
    timing = {"total_sec", "sec_per_tick", "sec_per_kimg", "maintenance_sec", "total_hours", "total_days"}
    timing |= {"Gmain", "Greg", "Dmain", "Dreg"}
    resources = {"cpu_mem_gb", "peak_gpu_mem_gb", "peak_gpu_mem_reserved_gb"}
    keys = losses | progress | {f"Timing/{n}" for n in timing} | {f"Resources/{n}" for n in resources} | {"timestamp"}
    for line in lines:
        assert line.keys() == keys
        assert all(value.keys() == {"num", "mean", "std"} for key, value in line.items() if key != "timestamp")
    assert lines[1]["Loss/scores/fake"]["num"] == 2 * 16 * 60  # of both networks' phases
    assert lines[1]["Loss/pl_penalty"]["num"] == 4 * 30
    assert lines[1]["Loss/r1_penalty"]["num"] == 60


def test_snapshots_hold_the_networks_of_the_state(unbroken):
    snapshot, state = load_snapshot(unbroken / "network-snapshot-000001.safetensors", ("G", "D", "G_ema")), None
    state = state_of(unbroken)
    for name in ("G", "D", "G_ema"):
        assert same(dict(getattr(snapshot, name).state_dict()), dict(state[name]))
    assert snapshot.info["images"] == 1020
    assert snapshot.info["dataset"]["name"] == "images"
    assert not same(dict(state["G"]), dict(state["G_ema"]))
    assert float(state["tensors"]["mean_length"]) > 0
    assert bool(state["G"]["mapping.w_avg"].any())


# --------------------------------------------------------------------------------------------------------- resume


def test_a_resumed_run_equals_an_unbroken_one_to_the_bit(unbroken, data, tmp_path, monkeypatch):
    """Cut within a tick, with half a line and half a file left behind; and read by other processes."""
    cut_at(monkeypatch, "iterate", 7)
    assert train(data, tmp_path, "--checkpoint-minutes", 0).exit_code == 1
    monkeypatch.undo()
    folder = tmp_path / FIRST
    assert state_of(folder)["numbers"]["iteration"] == 6
    with (folder / "stats.jsonl").open("a") as file:
        file.write((unbroken / "stats.jsonl").read_text().splitlines()[1] + '\n{"Progress/ti')
    (folder / "training-state.pt.part").write_bytes(b"half")
    result = train(data, tmp_path, "--workers", 2)
    assert result.exit_code == 0
    assert f"Goes on with {folder}" in result.output
    assert "after 0.4 kimg, tick 1" in result.output
    assert_same_run(folder, unbroken)
    assert not list(folder.glob("*.part"))


WRITES = ("save_grid", "save_snapshot", "save", "write_json", "end_tick")


@pytest.mark.slow
@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("name", WRITES)
def test_a_run_cut_off_at_any_write_ends_as_an_unbroken_one(unbroken, data, tmp_path, monkeypatch, name, call):
    cut_at(monkeypatch, name, call)
    assert train(data, tmp_path).exit_code == 1
    monkeypatch.undo()
    assert train(data, tmp_path).exit_code == 0
    assert_same_run(tmp_path / FIRST, unbroken)


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_an_unbroken_one(unbroken, data, tmp_path):
    kills = 0
    for seconds in np.random.default_rng(0).uniform(0, 2, 30):
        before = list(tmp_path.glob("*/stats.jsonl"))
        process = subprocess.Popen(
            command(data, tmp_path, "--checkpoint-minutes", 0),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for line in process.stdout:
            if "trains in" in line:
                break
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.stdout.close()
        if process.wait() == 0 and before:
            break
    assert kills >= 3
    assert train(data, tmp_path).exit_code == 0
    assert_same_run(tmp_path / FIRST, unbroken)


def test_a_finished_run_is_not_touched_and_a_longer_one_goes_on(unbroken, copied, data):
    before = {path: path.stat().st_mtime_ns for path in (copied / FIRST).iterdir()}
    result = train(data, copied)
    assert result.exit_code == 0
    assert f"Finished already, see {copied / FIRST}" in result.output
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [path.name for path in copied.iterdir()] == [FIRST]
    assert train(data, copied, "--kimg", 2).exit_code == 0
    assert state_of(copied / FIRST)["numbers"]["images"] == 2040
    assert [line["Progress/tick"]["mean"] for line in timeless(copied / FIRST)] == [0, 1, 2]
    assert timeless(copied / FIRST)[:2] == timeless(unbroken)


def test_other_options_are_named(copied, data):
    line = failure(train(data, copied, "--kimg", 2, "--glr", 0.001, "--seed", 1, "--snap", 3))
    assert line.startswith(f"Error: {copied / FIRST} is of a run with other options: --glr was not given, now 0.001; ")
    assert line.endswith("--seed was 0, now 1. Repeat those to go on with it, or start another by --new-run")


def test_another_dataset_of_the_same_name_is_told(copied, tmp_path):
    other = make_images(tmp_path / "other" / "images", count=20)
    assert "the dataset's images was 24, now 20" in failure(train(other, copied, "--kimg", 2))


def test_a_new_run_has_the_next_number(copied, data, tmp_path):
    """Past every number there is, also of what is not ours."""
    (copied / "00041-something").mkdir()
    for more, number in ((("--new-run",), "00042"), (("--desc", "try"), "00042")):
        result = train(data, copied, *more, "--dry-run")
        assert f"{number}-{NAME}{'-try' if '--desc' in more else ''}" in result.output
        assert result.exit_code == 0
    foreign = copied / FIRST / "training_options.json"
    foreign.write_text('{"G_kwargs": {}}')  # as another program leaves it
    assert f"00042-{NAME}" in train(data, copied, "--dry-run").output


@pytest.mark.parametrize("damage", ["torn", "flipped", "empty", "text"])
def test_a_damaged_state_is_named(copied, data, damage):
    path = copied / FIRST / "training-state.pt"
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    path.write_bytes({"torn": content[: len(content) // 2], "flipped": content, "empty": b"", "text": b"x"}[damage])
    line = failure(train(data, copied, "--kimg", 2))
    assert f"{path} is torn or not a training state" in line
    assert line.endswith("delete it to train from the beginning, or name another run by --new-run")


def test_two_runs_of_one_folder_are_kept_apart(copied, data):
    with sole_writer(copied / FIRST):
        line = failure(train(data, copied, "--kimg", 2))
    assert f"another process is writing to {copied / FIRST}" in line


# -------------------------------------------------------------------------------------------------------- options


def test_the_published_command_comes_to_what_it_was_meant_to(tmp_path):
    """The letter of the README's command; images of 256 px are enough to tell."""
    data = make_images(tmp_path / "ARAS400k" / "train" / "images", count=2, size=256)
    words = (
        f"--outdir={tmp_path}/out/ARAS400k --cfg=stylegan2 --data={data}/ --gpus=1 --batch=256 --gamma=0.01 --mirror=1"
        " --aug=ada --kimg 5000 --snap 200 --cbase 16384 --workers 16 --dry-run"
    ).split()
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    begun = result.output.index("{")
    told, end = json.JSONDecoder().raw_decode(result.output[begun:])
    rest = result.output[begun + end :]
    assert f"{tmp_path}/out/ARAS400k/00000-stylegan2-images-gpus1-batch256-gamma0.01" in rest
    assert rest.rstrip().endswith("Dry run; exiting.")
    assert not (tmp_path / "out").exists()
    wanted = {"kind": "stylegan2", "z_dim": 512, "w_dim": 512, "c_dim": 0, "map_depth": 8, "resolution": 256}
    wanted |= {"channels": 3, "channel_base": 16384, "channel_max": 512, "num_fp16_res": 4, "conv_clamp": 256}
    assert told["G_config"] == wanted
    assert told["D_config"]["mbstd_group"] == 4
    assert told["G_optimizer"] == {"lr": 0.002, "betas": [0.0, 0.99], "eps": 1e-8, "interval": 4}
    assert told["D_optimizer"] == {"lr": 0.002, "betas": [0.0, 0.99], "eps": 1e-8, "interval": 16}
    assert told["loss"]["r1_gamma"] == 0.01
    assert (told["loss"]["style_mixing_prob"], told["loss"]["pl_weight"]) == (0.9, 2.0)
    assert told["ema"] == {"kimg": 80.0, "rampup": 0.05}
    assert told["augment"] == {"mode": "ada", "kind": "bgc", "p": 0.0, "target": 0.6, "kimg": 500}
    assert told["options"]["metrics"] == ["fid50k_full"]
    assert (told["options"]["tick"], told["options"]["snap"]) == (4, 200)
    assert told["dataset"]["images"] == 4  # mirrored ones too


@pytest.mark.parametrize(
    "cfg, blur, widths, glr, depth, magnitude",
    [("stylegan3-t", 0.0, 0.0, 0.0025, 2, 0.998892), ("stylegan3-r", 10.0, 200.0, 0.0025, 2, 0.998892)],
)
def test_stylegan3_has_its_own_settings(data, tmp_path, cfg, blur, widths, glr, depth, magnitude):
    result = train(
        data, tmp_path, "--cfg", cfg, "--batch", 32, "--batch-gpu", 32, "--dry-run", without=("--map-depth",)
    )
    told, _ = json.JSONDecoder().raw_decode(result.output[result.output.index("{") :])
    assert (told["loss"]["blur_init_sigma"], told["loss"]["blur_fade_kimg"]) == (blur, widths)
    assert (told["loss"]["style_mixing_prob"], told["loss"]["pl_weight"]) == (0, 0)
    assert told["G_config"]["magnitude_ema_beta"] == pytest.approx(magnitude, abs=1e-6)
    assert told["G_optimizer"] == {"lr": glr, "betas": [0.0, 0.99], "eps": 1e-8, "interval": None}
    assert told["G_config"]["map_depth"] == depth


@pytest.mark.parametrize(
    "more, text",
    [
        (("--cond", 1), "--cond=True requires labels specified in dataset.json"),
        (("--gpus", 7), "--batch must be a multiple of --gpus"),
        (("--batch-gpu", 7), "--batch must be a multiple of --gpus times --batch-gpu"),
        (("--batch-gpu", 2), "--batch-gpu cannot be smaller than --mbstd"),
        (("--batch-gpu", 6), "--batch-gpu must be a multiple of --mbstd-group"),
        (("--metrics", "fid50k_full,nope"), "--metrics can only contain the following values:"),
        (("--metrics", "fd_encoder"), "--fd-encoder best.pt"),
        (("--fp32", 1, "--bf16", 1), "leave --bf16 out"),
        (("--data", "nowhere"), "--data: Path must point to a directory or zip"),
        (("--resume", "nowhere.safetensors"), "nowhere.safetensors is missing"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(data, tmp_path, more, text):
    assert text in failure(train(data, tmp_path, *more))


@pytest.mark.parametrize(
    "more, text",
    [
        (("--gamma", -1), "Invalid value for '--gamma': -1.0 is not in the range x>=0."),
        (("--gamma", "nan"), "nan is not a finite number."),
        (("--cfg", "stylegan"), "Invalid value for '--cfg'"),
        (("--mirror", "perhaps"), "'perhaps' is not a valid boolean"),
        (("--p", 1.5), "1.5 is not in the range 0<=x<=1."),
        (("--workers", -1), "-1 is not in the range x>=0."),
    ],
)
def test_values_out_of_range_are_usage_errors(data, tmp_path, more, text):
    result = train(data, tmp_path, *more)
    assert result.exit_code == 2
    assert text in result.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA GPU")
def test_gpus_that_are_not_there_are_told(data, tmp_path):
    line = failure(train(data, tmp_path, "--gpus", 2, "--batch", 64, "--device", "auto"))
    assert "--gpus 2: PyTorch finds no CUDA GPU here; use --gpus 1, or --device cpu" in line
    assert "--device cuda: PyTorch finds no CUDA GPU" in failure(train(data, tmp_path, "--device", "cuda"))


def test_images_of_a_size_that_networks_cannot_have_are_told(tmp_path):
    small = make_images(tmp_path / "images", size=8)
    line = failure(train(small, tmp_path / "out", "--cfg", "stylegan3-t"))
    assert "stylegan3-t needs a power of two from 16" in line
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_one_line(data, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert str(tmp_path / "file") in failure(train(data, tmp_path / "file"))


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_goes_on_later(unbroken, data, tmp_path):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    result = subprocess.run(
        command(data, tmp_path), capture_output=True, text=True, check=False, preexec_fn=small_files
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in result.stderr
    assert train(data, tmp_path).exit_code == 0
    assert_same_run(tmp_path / FIRST, unbroken)


# -------------------------------------------------------------------------------------------------- while it trains


def out_of_memory_above(most, at_call=1):
    """Have the discriminator run out of memory with more than `most` images, from its `at_call`-th call on."""
    calls = []

    def hook(module, inputs):
        if type(module).__name__ == "Discriminator":
            calls.append(len(inputs[0]))
            if len(inputs[0]) > most and len(calls) >= at_call:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has ...")

    return torch.nn.modules.module.register_module_forward_pre_hook(hook)


def three_iterations(monkeypatch, data, outdir, *more):
    """Train that long; return what was said, and the run folder."""
    with monkeypatch.context() as patch:
        cut_at(patch, "iterate", 4)
        result = train(data, outdir, "--checkpoint-minutes", 0, *more)
    return result.output, outdir / FIRST


def test_running_out_of_memory_halves_the_micro_batch_and_changes_nothing_else(data, tmp_path, monkeypatch):
    hook = out_of_memory_above(20)
    try:
        said, halved = three_iterations(monkeypatch, data, tmp_path / "halved")
    finally:
        hook.remove()
    assert said.count("The GPU ran out of memory with 60 images at a time; goes on with 20") == 1
    _, small = three_iterations(monkeypatch, data, tmp_path / "small", "--batch-gpu", 20)
    assert_same_run(halved, small)


def test_a_phase_that_runs_out_of_memory_half_way_leaves_no_trace(data, tmp_path, monkeypatch):
    """The discriminator's real images do not fit, when its generated ones have been counted already."""
    hook = out_of_memory_above(20, at_call=3)
    cut_at(monkeypatch, "iterate", 2)
    try:
        train(data, tmp_path / "halved", "--checkpoint-minutes", 0)
    finally:
        hook.remove()
    halved = state_of(tmp_path / "halved" / FIRST)
    assert halved["numbers"]["micro_batch"] == 20
    line = json.loads((tmp_path / "halved" / FIRST / "stats.jsonl").read_text().splitlines()[0])
    assert line["Loss/scores/fake"]["num"] == 120
    assert line["Loss/D/loss"]["num"] == line["Loss/r1_penalty"]["num"] == 60


def test_when_not_even_the_smallest_fits_it_is_one_line(data, tmp_path):
    hook = out_of_memory_above(3)
    try:
        line = failure(train(data, tmp_path))
    finally:
        hook.remove()
    assert "the GPU ran out of memory with 4 images at a time (CUDA out of memory)" in line


def test_a_training_that_diverges_ends_with_its_last_state(data, tmp_path):
    assert train(data, tmp_path, "--glr", 1e30).exit_code == 1
    line = failure(train(data, tmp_path, "--glr", 1e30))
    assert "the training has diverged: Loss/" in line
    assert "training-state.pt is as it was before" in line


@pytest.mark.parametrize("more", [(), ("--cbase", 128, "--cmax", 16)], ids=["same", "wider"])
def test_transfer_learning_starts_from_what_fits(unbroken, data, tmp_path, monkeypatch, more):
    source = unbroken / "network-snapshot-000001.safetensors"
    cut_at(monkeypatch, "iterate", 1)
    result = train(data, tmp_path, "--resume", source, *more, "--desc", "on", "--checkpoint-minutes", 0)
    told = json.loads(next(tmp_path.glob("*/training_options.json")).read_text())
    assert told["augment"]["kimg"] == 100
    assert told["ema"]["rampup"] is None
    said = result.output.split(f"Starts from {source}: ")[1].split()
    assert (said[0] == said[2]) == (not more)  # tensors that fit, of tensors there are
    begun = next(tmp_path.glob("*/fakes_init.png")).read_bytes()
    assert (begun == (unbroken / "fakes000001.png").read_bytes()) == (not more)


def test_other_cfgs_labels_and_modes_train(tmp_path):
    """Each for a few iterations: what is asked for is what is there in the end."""
    data = make_images(tmp_path / "images", classes=3)
    quick = ("--batch", 200, "--batch-gpu", 40)
    assert train(data, tmp_path, *quick, "--cond", 1, "--aug", "fixed", "--p", 0.5, "--freezed", 2).exit_code == 0
    folder = next(tmp_path.glob("00000-*"))
    snapshot = load_snapshot(folder / "network-snapshot-000001.safetensors", ("G_ema", "D"))
    assert snapshot.G_ema.c_dim == snapshot.D.c_dim == 3
    assert snapshot.info["augment_p"] == 0.5
    frozen = load_snapshot(folder / "network-snapshot-000000.safetensors", ("D",)).D
    assert torch.equal(frozen.b16.fromrgb.weight, snapshot.D.b16.fromrgb.weight)
    assert not torch.equal(frozen.b16.conv1.weight, snapshot.D.b16.conv1.weight)


@pytest.mark.slow
@pytest.mark.parametrize("cfg", ["stylegan3-t", "stylegan3-r"])
def test_stylegan3_trains_and_goes_on(data, tmp_path, monkeypatch, cfg):
    more = (
        "--cfg",
        cfg,
        "--cbase",
        128,
        "--batch",
        100,
        "--batch-gpu",
        20,
        "--aug",
        "noaug",
        "--checkpoint-minutes",
        0,
    )
    assert train(data, tmp_path / "one", *more).exit_code == 0
    cut_at(monkeypatch, "iterate", 4)
    assert train(data, tmp_path / "two", *more).exit_code == 1
    monkeypatch.undo()
    assert train(data, tmp_path / "two", *more).exit_code == 0
    assert_same_run(*(next((tmp_path / name).glob("00000-*")) for name in ("one", "two")))
    state = state_of(next((tmp_path / "one").glob("00000-*")))
    moved = [name for name, tensor in state["G"].items() if name.endswith("magnitude_ema") and float(tensor) != 1]
    assert len(moved) > 10


def test_metrics_without_their_weights_are_told_once(data, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    result = train(data, tmp_path, "--metrics", "fid50k_full", "--batch", 200, "--snap", 1)
    assert result.exit_code == 0
    assert result.output.count("fid50k_full is left out: ") == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_trains_in_half_precision(data, tmp_path):
    for more in ((), ("--bf16", 1)):
        outdir = tmp_path / f"out{len(more)}"
        assert train(data, outdir, *more, "--device", "cuda").exit_code == 0
        assert all(np.isfinite(line["Loss/D/loss"]["mean"]) for line in timeless(outdir / FIRST))
