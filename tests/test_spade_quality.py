"""Quality of generated images: each number against a formulation of its own, its marks, and who may judge."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from test_distributed import in_processes
from tiny_dataset import make_dataset
from tiny_model import save_tiny_model

from aras.confusion import scores
from aras.errors import UserError
from aras.feature_spaces import encoder_space
from aras.pairs import find_pairs, read_image
from aras.spade.judge import judges_apart, load_judge
from aras.spade.quality import Quality
from aras.training import share_cores

share_cores()
TIMELESS = {"space": "encoder", "images": 15}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("tiny") / "ARAS400k", train=9, val=5)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    import torch

    return load_judge(save_tiny_model(tmp_path_factory.mktemp("judge")), torch.device("cpu"))


@pytest.fixture
def quality(data, judge, tmp_path):
    """Make a Quality of three samples for each of the five held-out masks, with other arguments if wanted."""
    space = encoder_space(judge.model, judge.digest, judge.device)

    def make(space=space, judge=judge, samples=3, folder=tmp_path / "run", **more):
        return Quality(find_pairs(data, "val"), find_pairs(data, "train"), space, judge, folder, samples, **more)

    return make


def drawn(data, labels, items, step=8):
    """Return the real image of each mask, sample k of it `step` k grey levels darker or lighter where that ends."""
    import torch

    images = np.stack([read_image(data / "val/images" / f"{name}.png").astype(int) for name, _ in items])
    shifted = images + step * np.array([k for _, k in items])[:, None, None, None]
    assert labels.shape == images.shape[:3]
    return torch.from_numpy((255 - np.abs(255 - shifted)).astype(np.uint8)).permute(0, 3, 1, 2)


def naive_distance(one, other):
    """Return the Fréchet distance of two whole arrays of features: its trace is the nuclear norm of their product."""
    means = [features.mean(axis=0, dtype=np.float64) for features in (one, other)]
    rows = [(f - mean) / np.sqrt(len(f) - 1) for f, mean in zip((one, other), means, strict=True)]
    spreads = sum(np.square(row).sum() for row in rows)
    return np.square(means[0] - means[1]).sum() + spreads - 2 * np.linalg.norm(rows[0] @ rows[1].T, "nuc")


def test_the_numbers_are_what_they_say(quality, data, judge):
    import torch

    measured = quality()
    val = find_pairs(data, "val")
    pairs = list(measured._pairs(val, range(5)))
    real, labels = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
    items = [(str(name), k) for name in val.names for k in range(3)]
    fake = drawn(data, np.repeat(labels, 3, axis=0), items).permute(0, 2, 3, 1)
    found = measured.measure(partial(drawn, data))
    features = measured.space.features(fake).numpy()
    real_features = measured.space.features(torch.from_numpy(real)).numpy()
    assert found["frechet"] == pytest.approx(naive_distance(features, real_features), rel=1e-4, abs=1e-6)
    assert found["frechet_one_each"] == pytest.approx(0, abs=1e-6)
    per_mask = fake.numpy().reshape(5, 3, -1).astype(float)
    by_pair = [np.abs(per_mask[:, i] - per_mask[:, j]).mean() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found["diversity_levels"] == pytest.approx(np.mean(by_pair), rel=1e-6)
    split = features.reshape(5, 3, -1)
    apart = [np.linalg.norm(split[:, i] - split[:, j], axis=1).mean() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found["diversity_features"] == pytest.approx(np.mean(apart), rel=1e-4)
    matrix = judge.confusion(fake, torch.from_numpy(np.repeat(labels, 3, axis=0)))
    assert matrix.sum() == 15 * 32 * 32
    assert found["agreement_miou"] == scores(matrix)["iou"]
    assert found["agreement_accuracy"] == scores(matrix)["accuracy"]
    assert found.items() >= TIMELESS.items()
    json.dumps(found, allow_nan=False)


def test_real_images_are_their_own_ceiling_and_have_no_diversity(quality, data):
    measured = quality()
    found, marks = measured.measure(partial(drawn, data, step=0)), measured.reference.marks
    assert found["diversity_levels"] == 0
    assert found["agreement_miou"] == marks["ceiling_miou"]
    assert found["agreement_accuracy"] == marks["ceiling_accuracy"]
    assert marks["floor_images"] == 9
    assert marks["frechet_floor"] > 0
    assert json.loads((measured.folder / "quality.json").read_text()) == marks
    told = measured.told()
    assert "3 images for each of 5 masks of val" in told
    assert f"at {marks['frechet_floor']:.4g} from the 5 real ones" in told


def test_batches_change_nothing_and_random_draws_leave_no_trace(quality, data):
    import torch

    def random(labels, items):
        torch.rand(len(items))
        return drawn(data, labels, items)

    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    found = [quality(batch_size=size).measure(random) for size in (1, 6, 99)]
    assert torch.equal(torch.rand(3), wanted)
    for other in found[1:]:
        assert other.pop("space") == "encoder"
        assert other == pytest.approx({name: found[0][name] for name in other}, rel=1e-4, abs=1e-6)


def test_without_a_judge_or_a_second_sample_what_needs_them_is_left_out(quality, data):
    measured = quality(judge=None, samples=1)
    found = measured.measure(partial(drawn, data))
    assert found["diversity_levels"] is None
    assert found["frechet"] == found["frechet_one_each"]
    assert not any(name.startswith(("agreement", "ceiling")) for name in found | measured.reference.marks)
    assert measured.told().endswith("no judge, so no agreement with the masks")


def test_of_many_masks_as_many_are_drawn(quality, data):
    seen = []

    def note(labels, items):
        seen.extend(items)
        return drawn(data, labels, items)

    assert quality(most=3, seed=1).measure(note)["images"] == 9
    names = sorted({name for name, _ in seen})
    assert len(names) == 3
    assert sorted(seen) == [(name, k) for name in names for k in range(3)]


# ---------------------------------------------------------------------------------------------------------- reference


def test_the_reference_is_computed_once_and_again_only_for_other_weights_or_images(quality, data):
    first = quality()
    marks = first.reference.marks

    def unwanted(images):
        raise AssertionError("the reference is computed again")

    lazy = replace(first.space, network=unwanted)
    assert quality(space=lazy).reference.marks == marks
    for other in (
        {"space": replace(lazy, digest="another")},
        {"judge": None},
        {"most": 4},
        {"samples": 1},  # which makes another floor
    ):
        with pytest.raises(AssertionError, match="again"):
            _ = quality(**({"space": lazy} | other)).reference
    path = first.folder / "quality.npz"
    path.write_bytes(path.read_bytes()[:500])
    assert quality().reference.marks == marks


def measured_by_rank(rank, folder):
    """Return, as one tensor, the quality and the marks that rank `rank` of two is told."""
    import torch

    judge = load_judge(folder / "best.pt", torch.device("cpu"))
    space = encoder_space(judge.model, judge.digest, judge.device)
    data = folder / "ARAS400k"
    val, train = find_pairs(data, "val"), find_pairs(data, "train")
    measured = Quality(val, train, space, judge, folder / "run", samples=3, batch_size=3)
    found = measured.measure(partial(drawn, data)) | measured.reference.marks
    return {name: value for name, value in found.items() if isinstance(value, float | int)}


@pytest.mark.slow
def test_two_processes_measure_what_one_does(tmp_path):
    make_dataset(tmp_path / "ARAS400k", train=9, val=5)
    save_tiny_model(tmp_path)
    one, other = in_processes(measured_by_rank, tmp_path)
    assert one == other
    (tmp_path / "run" / "quality.npz").unlink()
    assert one == pytest.approx(measured_by_rank(0, tmp_path), rel=1e-6, abs=1e-6)


def test_one_image_is_no_set(data, judge, tmp_path):
    space = encoder_space(judge.model, judge.digest, judge.device)
    with pytest.raises(UserError, match=r"val/images has one image, and a distance between sets needs two"):
        Quality(find_pairs(data, "val", 1), find_pairs(data, "train"), space, judge, tmp_path)


# -------------------------------------------------------------------------------------------------------------- judge


def test_a_judge_that_has_seen_the_images_is_refused_and_doubts_are_told(data, tmp_path):
    weights = save_tiny_model(tmp_path, data=str(data), train=["train"])
    val, train = find_pairs(data, "val"), find_pairs(data, "train")
    assert "best epoch was chosen by it" in judges_apart(weights, val)
    assert judges_apart(weights, replace(val, images=data / "test" / "images")) is None
    with pytest.raises(UserError, match=r"was trained on .*train/images, which has 9 of the 9 images"):
        judges_apart(weights, train)
    elsewhere = make_dataset(tmp_path / "elsewhere", test=3)  # patches of the same places by their names
    with pytest.raises(UserError, match=r"which has 3 of the 3 images of .*elsewhere.*such as N41E031_000_000\.png"):
        judges_apart(weights, find_pairs(elsewhere, "test"))
    (elsewhere / "test").rename(elsewhere / "other")
    for folder in ("images", "masks"):
        for path in (elsewhere / "other" / folder).iterdir():
            path.rename(path.with_name(f"S{path.name}"))
    assert judges_apart(weights, find_pairs(elsewhere, "other")) is None
    weights = save_tiny_model(tmp_path, data="gone", train=["train"])
    assert "nothing tells which images" in judges_apart(weights, val)
    (tmp_path / "run.json").unlink()
    assert "nothing tells which images" in judges_apart(weights, val)
