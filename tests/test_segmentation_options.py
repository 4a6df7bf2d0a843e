"""What the options of the trainer beyond the paper's recipe do to a run."""

import io
import json
import subprocess
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_dataset import make_dataset, write_pair
from tiny_training import ENCODER, NAME, assert_same_run, command, failure, same, tensors_of, train

from aras.legend import NO_DATA, NUM_CLASSES, mask_image, read_mask
from aras.pairs import read_image
from aras.segmentation.data import Options, make_loaders

SLOW = pytest.mark.slow
PLAIN = Options(
    data=Path("ARAS400k"),
    train=("train",),
    mix=None,
    sampling="uniform",
    min_confidence=0,
    arch="FPN",
    encoder=ENCODER,
    encoder_weights="none",
    init_weights=None,
    epochs=1,
    batch_size=4,
    eval_batch_size=None,
    lr=1e-3,
    loss="dice",
    ema=0,
    patience=5,
    tta=False,
    precision="fp32",
    compile=False,
    checkpoint_minutes=15,
    workers=0,
    seed=0,
    outdir=Path("segmentation"),
    limit=None,
    device="cpu",
    wandb_project=None,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("tiny") / "ARAS400k", train=8, val=3, test=5, synth=6)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The folder of one epoch as in the paper."""
    outdir = tmp_path_factory.mktemp("trained") / "segmentation"
    assert train(data, outdir, "--epochs", 1).exit_code == 0
    return outdir


def segmenter(weights):
    from aras.segmenter import load_segmenter

    return load_segmenter(weights, "FPN", ENCODER)


def images_and_labels(data):
    """Return the test split's images (N, H, W, 3) and labels (N, H, W) uint8, as tensors."""
    import torch

    names = sorted(path.name for path in (data / "test" / "images").iterdir())
    images = np.stack([read_image(data / "test" / "images" / name) for name in names])
    labels = np.stack([read_mask(data / "test" / "masks" / name) for name in names])
    return torch.from_numpy(images), torch.from_numpy(labels)


def scores_in(outdir):
    return json.loads((outdir / "test_metrics.json").read_text())


# ------------------------------------------------------------------------------------------------------------ losses


@pytest.mark.parametrize("loss", ["lovasz", *(pytest.param(name, marks=SLOW) for name in ("dice", "dice+ce", "focal"))])
def test_the_loss_on_the_test_split_is_the_librarys(data, tmp_path, loss):
    """The mean over images of that of their batches."""
    import segmentation_models_pytorch as smp
    import torch

    from aras.inference import logits_of

    assert train(data, tmp_path / "run", "--epochs", 1, "--loss", loss).exit_code == 0
    images, labels = images_and_labels(data)
    dice = smp.losses.DiceLoss("multiclass", ignore_index=NO_DATA)
    loss_of = {
        "dice": dice,
        "dice+ce": lambda logits, truth: dice(logits, truth) + torch.nn.functional.cross_entropy(logits, truth),
        "focal": smp.losses.FocalLoss("multiclass"),
        "lovasz": smp.losses.LovaszLoss("multiclass", per_image=True),
    }[loss]
    model = segmenter(tmp_path / "run" / "best.pt")
    with torch.inference_mode():
        logits = [logits_of(model, part, torch.device("cpu")) for part in images.split(4)]
        each = [float(loss_of(*pair)) * len(pair[0]) for pair in zip(logits, labels.long().split(4), strict=True)]
    assert scores_in(tmp_path / "run")["loss"] == pytest.approx(sum(each) / len(images), abs=1e-6)


# ------------------------------------------------------------------------------------------------ what is trained on


def epoch_of(options, epoch=1):
    """Return how often each image is in `epoch`."""
    import torch

    batches = make_loaders(options, torch.device("cpu")).train.batch_sampler
    batches.epoch = epoch
    return Counter(index for batch in batches for _, index, _ in batch)


def test_an_epoch_mixes_the_sets_in_the_ratio_asked_for(data):
    options = replace(PLAIN, data=data, train=("train", "synth"))
    assert epoch_of(options) == dict.fromkeys(range(14), 1)
    half = replace(options, mix="2:1")
    found = [epoch_of(half, epoch) for epoch in (1, 2, 3)]
    assert all(set(range(8)) <= counts.keys() and counts.total() == 12 for counts in found)
    assert all((found[0] + found[1] + found[2])[index] == 2 for index in range(8, 14))
    assert sorted(epoch_of(replace(half, limit=3, batch_size=2)).values()) == [1, 1, 1, 1]  # 3 + 2, less a last one
    assert epoch_of(replace(half, sampling="balanced")).total() == 12


def test_balanced_sampling_draws_rare_classes_more_often(tmp_path):
    """Eight patches of one class and one of another: from the table, and from the masks where there is none."""
    data = make_dataset(tmp_path / "ARAS400k", classes=1, train=8, val=2, test=2)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(data / "train" / "images" / "rare.png")
    mask_image(np.full((32, 32), 6, np.uint8)).save(data / "train" / "masks" / "rare.png")
    options = replace(PLAIN, data=data, batch_size=3, sampling="balanced")

    def drawn():
        return sum(epoch_of(options, epoch)[8] for epoch in range(1, 41)) / 40

    from_masks = drawn()
    assert 2 < from_masks < 6  # once without
    table = data / "class_percentages" / "train.csv"
    table.parent.mkdir()
    rows = [f"N41E031_000_00{i},0,0,0,0,0,0,100\n" for i in range(8)]
    table.write_text("filename,Tree,Shrub,Grass,Crop,Built-up,Barren,Water\n" + "".join(rows))
    assert drawn() == pytest.approx(1, abs=0.5)  # all of one class, the last from its mask


def write_maps(data, values):
    """Write a confidence map of synth/ for each of `values`, all of one value or an array."""
    folder = data / "synth" / "confidence"
    folder.mkdir(exist_ok=True)
    for i, value in enumerate(values):
        pixels = np.broadcast_to(np.asarray(value, np.uint8), (32, 32))
        Image.fromarray(pixels.copy()).save(folder / f"N41E031_000_00{i}.png")


def test_labels_that_the_model_was_not_sure_of_are_ignored(tmp_path):
    import torch

    data = make_dataset(tmp_path / "ARAS400k", train=4, val=2, test=2, synth=4)
    options = replace(PLAIN, data=data, train=("train", "synth"), min_confidence=0.6)
    write_maps(data, [np.arange(32) * 8] * 4)
    labels = torch.cat([labels for _, labels in make_loaders(options, torch.device("cpu")).train])
    ignored = (labels == NO_DATA).sum(dim=(1, 2)).tolist()
    assert sorted(ignored) == [0] * 4 + [20 * 32] * 4  # 8 * 19 / 255 is under 0.6, 8 * 20 / 255 is not

    write_maps(data, [0] * 4)
    outdir = tmp_path / "run"
    assert train(data, outdir, "--train", "synth", "--min-confidence", 0.5, "--epochs", 1).exit_code == 0
    assert json.loads((outdir / "metrics.jsonl").read_text())["train_loss"] == 0
    assert scores_in(outdir)["pixels"] == 2 * 32 * 32  # the real labels all count


def test_confidence_maps_that_are_not_there_are_named_before_training(tmp_path):
    data = make_dataset(tmp_path / "ARAS400k", train=4, val=2, test=2, synth=4)
    options = ("--train", "synth", "--min-confidence", 0.5)
    line = failure(train(data, tmp_path / "run", *options))
    assert f"{data / 'synth' / 'confidence' / 'N41E031_000_000.png'} is missing" in line
    assert "segmentation_predict.py --confidence-maps" in line
    write_maps(data, [255] * 3)
    assert "confidence/N41E031_000_003.png is missing" in failure(train(data, tmp_path / "run", *options))
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize(
    "more, message",
    [
        (("--min-confidence", 0.5), "--min-confidence is for labels that a model gave; add --train synth"),
        (("--min-confidence", 2), "Invalid value for '--min-confidence'"),
        (("--mix", "1:2"), "Invalid value for '--mix': 1:2 has 2 numbers for 1 --train sets"),
        (("--mix", "1:x", "--train", "train", "--train", "synth"), "'--mix': 1:x is not numbers"),
        (("--seeds", "0,1", "--seed", 0), "--seeds names every seed; leave --seed out"),
        (("--seeds", "0,0"), "Invalid value for '--seeds': '0,0' has a seed twice"),
        (("--seeds", f"0,{2**32}"), "Invalid value for '--seeds': 4294967296 is above 4294967295, the largest seed"),
        (("--seed", 2**32), "Invalid value for '--seed': 4294967296 is not in the range 0<=x<=4294967295"),
        (("--ema", 1), "Invalid value for '--ema'"),
        (("--lr", "nan"), "Invalid value for '--lr': nan is not a finite number"),
        (("--checkpoint-minutes", "inf"), "Invalid value for '--checkpoint-minutes': inf is not a finite number"),
        (("--precision", "fp8"), "Invalid value for '--precision'"),
        (("--loss", "tversky"), "Invalid value for '--loss'"),
        (("--checkpoint-minutes", -1), "Invalid value for '--checkpoint-minutes'"),
    ],
)
def test_options_that_do_not_go_together_are_a_usage_error(data, tmp_path, more, message):
    result = train(data, tmp_path / "run", *more)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------------------- the model


def test_a_training_starts_from_a_whole_model_without_the_hub(trained, data, tmp_path, run, monkeypatch):
    """With a learning rate of next to nothing, its weights are those of the file."""
    from segmentation_train import main

    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    best = trained / "best.pt"
    options = ("--data", data, "--device", "cpu", "--arch", "FPN", "--encoder", ENCODER, "--workers", 0, "--epochs", 1)
    result = run(main, *options, "--outdir", tmp_path / "run", "--init-weights", best, "--lr", 1e-20)
    assert result.exit_code == 0
    before, after = tensors_of(best), tensors_of(tmp_path / "run" / "best.pt")
    weights = [name for name in before if "running_" not in name and "num_batches" not in name]
    assert same({name: before[name] for name in weights}, {name: after[name] for name in weights})

    torn = tmp_path / "torn.pt"
    torn.write_bytes(best.read_bytes()[:1000])
    for path, message in (
        (torn, f"{torn} is torn or not a file of weights"),
        (tmp_path / "gone.pt", "gone.pt is missing"),
        (trained / "last.pt", "last.pt is the state of a training; give best.pt beside it"),
    ):
        assert message in failure(run(main, *options, "--outdir", tmp_path / "bad", "--init-weights", path))
    line = failure(run(main, *options, "--arch", "Unet", "--outdir", tmp_path / "bad", "--init-weights", best))
    assert f"{best} does not hold the weights of Unet with {ENCODER}" in line


def test_the_average_of_the_weights_is_what_is_kept(data, tmp_path):
    assert train(data, tmp_path / "run", "--epochs", 1, "--ema", 0.9).exit_code == 0
    last, best = tensors_of(tmp_path / "run" / "last.pt"), tensors_of(tmp_path / "run" / "best.pt")
    assert last["average"]["updates"] == 2
    assert same(dict(best), dict(last["average"]["model"]))
    assert not same(dict(best), dict(last["model"]))


def test_the_test_split_is_predicted_over_all_symmetries(trained, data, tmp_path):
    import torch

    from aras.inference import mean_logits

    assert train(data, tmp_path / "run", "--epochs", 1, "--tta").exit_code == 0
    assert same(tensors_of(tmp_path / "run" / "best.pt"), tensors_of(trained / "best.pt"))
    assert scores_in(tmp_path / "run")["confusion_matrix"] != scores_in(trained)["confusion_matrix"]
    with torch.inference_mode():
        logits = mean_logits(
            [segmenter(trained / "best.pt")], images_and_labels(data)[0], torch.device("cpu"), symmetries=8
        )
    with zipfile.ZipFile(tmp_path / "run" / f"{NAME}.zip") as archive:
        masks = [np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in archive.namelist()]
    assert (np.stack(masks) == logits.argmax(dim=1).numpy()).mean() > 0.999  # other batches, other rounding


def test_scores_come_with_intervals_blocks_and_tiles(tmp_path):
    data = make_dataset(tmp_path / "ARAS400k", train=4, val=2)
    rng = np.random.default_rng(0)
    for name in ("N41E031_000_000", "N41E031_000_001", "N41E031_009_000", "N40E030_000_000"):
        write_pair(data / "test", name, (32, 32), rng, NUM_CLASSES, rgb=False)
    assert train(data, tmp_path / "run", "--epochs", 1).exit_code == 0
    found = scores_in(tmp_path / "run")
    assert found["blocks"] == {"count": 3, "source": "names"}
    assert [(row["tile"], row["images"], row["blocks"]) for row in found["tiles"]] == [
        *(("N40E030", 1, 1), ("N41E031", 3, 2))
    ]
    low, high = found["interval95"]["accuracy"]
    assert low <= found["accuracy"] <= high
    assert low < high
    for figure in ("curves.png", "confusion_matrix.png"):
        with Image.open(tmp_path / "run" / figure) as image:
            assert image.width > 500


# ------------------------------------------------------------------------------------------------- seeds, speed


def test_seeds_are_runs_of_their_own_that_are_summed_up(trained, data, tmp_path):
    outdir = tmp_path / "run"
    result = train(data, outdir, "--epochs", 1, "--seeds", "0,3")
    assert result.exit_code == 0
    assert_same_run(outdir / "seed_0", trained)
    f1 = [scores_in(outdir / f"seed_{seed}")["f1"] for seed in (0, 3)]
    summary = json.loads((outdir / "seeds.json").read_text())
    assert summary["seeds"] == [0, 3]
    assert summary["scores"]["f1"] == pytest.approx(
        {"mean": np.mean(f1), "std": np.std(f1, ddof=1), "min": min(f1), "max": max(f1)}
    )
    assert "2 runs, seeds 0, 3" in result.output
    before = (outdir / "seeds.json").read_bytes()
    (outdir / "seeds.json").unlink()
    (outdir / "seed_3" / "test_metrics.json").unlink()
    again = train(data, outdir, "--epochs", 1, "--seeds", "0,3")
    assert again.output.count("Finished already") == 1
    assert (outdir / "seeds.json").read_bytes() == before


def test_images_are_scored_by_other_batches_than_they_are_trained_on(trained, data, tmp_path):
    """The training is the same; the loss is not, for Dice is a batch's."""
    assert train(data, tmp_path / "run", "--epochs", 1, "--eval-batch-size", 1, "--precision", "fp32").exit_code == 0
    ours, theirs = (json.loads((f / "metrics.jsonl").read_text()) for f in (tmp_path / "run", trained))
    assert ours["train_loss"] == theirs["train_loss"]
    assert ours["val_loss"] != theirs["val_loss"]
    assert ours["f1"] == pytest.approx(theirs["f1"], abs=0.01)


@SLOW
def test_bfloat16_computes_other_than_float32_but_not_by_much(trained, data, tmp_path):
    assert train(data, tmp_path / "run", "--epochs", 1, "--precision", "bf16").exit_code == 0
    ours, theirs = (json.loads((f / "metrics.jsonl").read_text()) for f in (tmp_path / "run", trained))
    assert ours["train_loss"] != theirs["train_loss"]
    assert ours["train_loss"] == pytest.approx(theirs["train_loss"], abs=0.02)
    assert all(t.dtype.itemsize >= 4 for t in tensors_of(tmp_path / "run" / "best.pt").values())


@SLOW
def test_a_compiled_model_trains_the_same_and_one_that_cannot_be_is_one_line(trained, data, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    told = command(data, tmp_path / "run", "--epochs", 1, "--compile")
    result = subprocess.run(told, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    ours, theirs = (json.loads((f / "metrics.jsonl").read_text()) for f in (tmp_path / "run", trained))
    assert ours["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-3)
    assert tensors_of(tmp_path / "run" / "best.pt").keys() == tensors_of(trained / "best.pt").keys()

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "other"))
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    result = subprocess.run([*told, "--outdir", str(tmp_path / "no")], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    line = result.stderr.splitlines()[-1]
    assert line.startswith(f"Error: --compile: FPN with {ENCODER} cannot be compiled here (")
    assert line.endswith("); leave --compile out")
    assert "Traceback" not in result.stderr
