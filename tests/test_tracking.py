"""Real offline runs of Weights & Biases, read back from disk."""

import http.server
import threading

import numpy as np
import pytest
from PIL import Image
from tiny_dataset import make_dataset
from wandb_file import read_run

from aras.inference import IMAGENET_MEAN, IMAGENET_STD
from aras.legend import CLASS_NAMES, COLORS, NO_DATA, NUM_CLASSES, read_mask
from aras.pairs import find_pairs, read_image
from aras.tracking import SAMPLES, sample_images, wandb_log
from aras.training import share_cores

share_cores()
LEGEND = {str(label): name for label, name in enumerate(CLASS_NAMES)} | {str(NO_DATA): "no data"}


@pytest.fixture
def pairs(tmp_path):
    return find_pairs(make_dataset(tmp_path / "ARAS400k", val=9), "val")


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """No login, no setting from outside."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(scope="module")
def nearest_color():
    """A segmenter that gives each pixel the class whose colour is nearest; it has no weights."""
    import torch

    class NearestColor(torch.nn.Module):
        def forward(self, batch):  # (B, 3, H, W) normalised
            assert not self.training
            colors = (torch.tensor(COLORS) / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
            scaled = torch.tensor(IMAGENET_STD).view(1, 1, 3, 1, 1)
            return -((batch.unsqueeze(1) - colors.view(1, NUM_CLASSES, 3, 1, 1)) * scaled).square().sum(dim=2)

    return NearestColor().train()


def by_hand(image):
    """Return the class of the nearest colour of each pixel of `image` (H, W, 3)."""
    return np.square(image[..., None, :].astype(float) - COLORS).sum(axis=-1).argmin(axis=-1)


def samples_of(model, pairs, **more):
    import torch

    return sample_images(model, pairs, (32, 32), torch.device("cpu"), **more)


def test_an_offline_run_holds_config_values_media_and_legend(tmp_path, offline, pairs, nearest_color):
    config = {"arch": "FPN", "train": ["train", "synth"], "lr": 1e-3, "limit": None}
    figure = tmp_path / "curves.png"
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(figure)
    line = {"epoch": 3, "train_loss": 0.1234567890123, "class_iou": dict.fromkeys(CLASS_NAMES, 0.25) | {"Water": None}}
    told: list[str] = []
    with wandb_log("aras-test", tmp_path, config, "run-1", told.append) as log:
        log(line | {"samples": samples_of(nearest_color, pairs)})
        log({"epoch": 4, "train_loss": 0.1})
        log({"test": {"f1": 0.7, "iou": 0.6}, "curves": figure})
    assert told == []
    assert figure.exists()

    run = read_run(tmp_path)
    assert run.project == "aras-test"
    assert config.items() <= run.config.items()
    assert run.x_axis == "epoch"
    first, second, last = run.history
    assert line.items() <= first.items()
    assert (second["epoch"], second["train_loss"]) == (4, 0.1)
    assert last["test"] == {"f1": 0.7, "iou": 0.6}
    assert (run.files / last["curves"]["path"]).read_bytes() == figure.read_bytes()

    samples = first["samples"]
    assert samples["captions"] == pairs.names[[0, 3, 5, 8]].tolist()
    for place, name, masks in zip((0, 3, 5, 8), samples["filenames"], samples["all_masks"], strict=True):
        image = read_image(pairs.image(place))
        assert (np.asarray(Image.open(run.files / name)) == image).all()
        found = {which: np.asarray(Image.open(run.files / masks[which]["path"])) for which in ("truth", "prediction")}
        assert (found["truth"] == read_mask(pairs.mask(place))).all()
        assert (found["prediction"] == by_hand(image)).all()
        assert (found["prediction"] != found["truth"]).any()
    legends = [value for key, value in labels_in(run.config) if key.startswith("samples")]
    assert len(legends) == 2  # of the prediction and of the truth
    assert all({str(key): name for key, name in legend["value"].items()} == LEGEND for legend in legends)


def labels_in(config):
    """Return the class labels of masks, which W&B keeps in the config."""
    return config["_wandb"]["mask/class_labels"].items()


@pytest.mark.parametrize("images, count, places", [(9, 3, [0, 4, 8]), (2, SAMPLES, [0, 1]), (1, SAMPLES, [0])])
def test_samples_are_spread_over_the_split_and_always_the_same(tmp_path, nearest_color, images, count, places):
    pairs = find_pairs(make_dataset(tmp_path / "ARAS400k", val=images), "val")
    for _ in range(2):
        found = samples_of(nearest_color.train(), pairs, count=count)
        assert len(found) == len(places)
        for image, place in zip(found, places, strict=True):
            assert (np.asarray(image.image) == read_image(pairs.image(place))).all()


def test_without_a_project_nothing_is_written(tmp_path):
    with wandb_log(None, tmp_path, {}, "run-1", pytest.fail) as log:
        log({"epoch": 1})
    assert not list(tmp_path.iterdir())


def test_a_failure_on_the_way_is_one_warning_and_the_training_goes_on(tmp_path, offline):
    told: list[str] = []
    with wandb_log("aras-test", tmp_path, {}, "run-1", told.append) as log:
        log({"epoch": 1})
        log({"figure": tmp_path / "gone.png"})
        log({"figure": tmp_path / "gone.png"})
        log({"epoch": 2})
    (line,) = told
    assert line.startswith("WARNING: goes on without Weights & Biases (")
    assert "gone.png" in line
    assert line.endswith("); metrics.jsonl has the same values")
    assert "\n" not in line


@pytest.mark.parametrize("project, mode", [("a/b", "offline"), ("aras-test", "bogus")])
def test_a_run_that_cannot_begin_is_one_warning(tmp_path, offline, monkeypatch, project, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    told: list[str] = []
    with wandb_log(project, tmp_path, {}, "run-1", told.append) as log:
        log({"epoch": 1})
    (line,) = told
    assert line.startswith("WARNING: goes on without Weights & Biases (")


def test_what_stops_the_training_passes_through_and_the_run_is_kept(tmp_path, offline):
    with (
        pytest.raises(KeyError, match="of the training"),
        wandb_log("aras-test", tmp_path, {}, "run-1", pytest.fail) as log,
    ):
        log({"epoch": 1, "f1": 0.5})
        raise KeyError("of the training")
    assert read_run(tmp_path).history[0]["f1"] == 0.5


class Refuses(http.server.BaseHTTPRequestHandler):
    """A server that answers, and accepts no key."""

    def do_HEAD(self):
        self.send_response(200)
        self.end_headers()

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_):
        """Keep quiet."""


@pytest.mark.parametrize("service", ["away", "refuses"])
def test_it_goes_offline_when_the_service_is_away_or_refuses_the_key(tmp_path, offline, monkeypatch, service):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port if service == 'refuses' else 9}")
        told: list[str] = []
        with wandb_log("aras-test", tmp_path, {}, f"run-{service}", told.append) as log:
            log({"train_loss": 0.5})
        server.shutdown()
    assert not told
    assert read_run(tmp_path).history[0]["train_loss"] == 0.5
