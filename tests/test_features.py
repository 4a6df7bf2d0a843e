"""Pooled features: what they are, and that a cut-off extraction goes on from where it was."""

import os
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tiny_dataset import make_dataset

from aras.errors import UserError
from aras.feature_maps import features
from aras.feature_maps.draws import blocks_of_draws, draw_images
from aras.feature_maps.features import (
    cache_key,
    extract_features,
    is_cached,
    load_all,
    pooled_features,
    read_features,
    refusal,
    standardise,
)
from aras.pairs import read_image
from aras.training import share_cores

share_cores()
ENCODER = "tu-test_efficientnet"


@pytest.fixture(scope="module")
def encoder():
    import torch

    from aras.segmenter import build_model

    torch.manual_seed(3)
    return build_model("Unet", ENCODER, "none").eval().encoder


@pytest.fixture
def draw(tmp_path):
    return draw_images("test", make_dataset(tmp_path / "data", test=8) / "test" / "images", 99, 0)


@pytest.fixture
def extract(encoder, draw, tmp_path):
    import torch

    def invoke(batch_size=3, workers=0, key="0" * 64):
        path = tmp_path / "cache" / "test.npz"
        return path, extract_features(draw, encoder, path, key, batch_size, workers, torch.device("cpu"))

    return invoke


def test_a_feature_is_the_mean_over_space_of_the_last_stage(encoder, extract, draw):
    import torch

    from aras.inference import IMAGENET_MEAN, IMAGENET_STD

    path, failures = extract()
    assert failures == {}
    with np.load(path, allow_pickle=False) as file:
        assert file["names"].tolist() == draw.names.tolist()
        found = file["features"]
    assert found.dtype == np.float32
    for name, row in zip(draw.names, found, strict=True):
        pixels = (read_image(draw.folder / f"{name}.png") / 255.0 - IMAGENET_MEAN) / IMAGENET_STD
        with torch.inference_mode():
            stage = encoder(torch.from_numpy(pixels).float().permute(2, 0, 1)[None])[-1]
        assert np.abs(row - stage.mean((2, 3))[0].numpy()).max() < 1e-5
    assert list(path.parent.iterdir()) == [path]


@pytest.fixture
def calls(monkeypatch):
    """The sizes of the batches that the encoder was given, and after how many it is cut off."""
    found = SimpleNamespace(sizes=[], most=99)

    def counted(encoder, images, device):
        if len(found.sizes) == found.most:
            raise KeyboardInterrupt
        found.sizes.append(len(images))
        return pooled_features(encoder, images, device)

    monkeypatch.setattr(features, "pooled_features", counted)
    return found


@pytest.mark.parametrize("batches", [0, 1, 2])
def test_a_cut_off_extraction_goes_on_to_the_same_bytes(extract, calls, batches):
    path, _ = extract()
    whole = path.read_bytes()
    path.unlink()
    calls.sizes, calls.most = [], 1 + batches  # a look at the size goes before
    with pytest.raises(KeyboardInterrupt):
        extract()
    assert not path.exists()
    calls.sizes, calls.most = [], 99
    extract(workers=2)
    assert path.read_bytes() == whole
    assert calls.sizes == [1] + [3] * (3 - batches)


def test_a_row_that_was_torn_is_extracted_again(extract):
    path, _ = extract()
    whole = read_features(path)
    torn = whole.copy()
    torn[4, 30:] = np.nan
    rows = path.with_suffix(".0000000000000000.npy")
    path.unlink()
    np.save(rows, torn)
    extract()
    assert np.array_equal(read_features(path), whole)
    assert not rows.exists()


def test_an_image_that_cannot_be_read_is_told_and_the_others_are_kept(extract, draw, calls):
    path, _ = extract()
    whole = path.read_bytes()
    path.unlink()
    bad = draw.folder / f"{draw.names[4]}.png"
    content = bad.read_bytes()
    bad.write_bytes(content[:80])
    _, failures = extract()
    assert list(failures) == [draw.names[4]]
    assert f"{bad} cannot be read" in failures[draw.names[4]]
    assert not path.exists()
    bad.write_bytes(content)
    calls.sizes = []
    assert extract()[1] == {}
    assert path.read_bytes() == whole
    assert calls.sizes == [1, 3]  # a look at the size, and the one batch with the image


def test_other_weights_or_images_are_other_features(extract, draw):
    path, _ = extract(key="1" * 64)
    assert is_cached(path, "1" * 64)
    assert not is_cached(path, "2" * 64)
    first = cache_key("a", ENCODER, draw)
    assert first == cache_key("a", ENCODER, draw_images("other", draw.folder, 99, 7))
    assert first != cache_key("b", ENCODER, draw)
    assert first != cache_key("a", "another", draw)
    changed = draw.folder / f"{draw.names[2]}.png"
    os.utime(changed, ns=(1, 1))
    assert first != cache_key("a", ENCODER, draw_images("test", draw.folder, 99, 0))


@pytest.mark.parametrize("at", [0.0, 0.5, 0.98])
def test_a_damaged_file_is_noticed(extract, at):
    path, _ = extract()
    content = bytearray(path.read_bytes())
    for place in range(int(at * len(content)), int(at * len(content)) + 8):
        content[place] ^= 255
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"test\.npz is torn .* delete it"):
        read_features(path)
    path.write_bytes(content[:100])
    assert not is_cached(path, "0" * 64)
    path.unlink()
    assert not is_cached(path, "0" * 64)


def test_features_that_are_no_numbers_are_refused(encoder, draw, tmp_path):
    import copy

    import torch

    broken = copy.deepcopy(encoder)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="no finite numbers; give other --weights"):
        extract_features(draw, broken, tmp_path / "x.npz", "k", 4, 0, torch.device("cpu"))


def test_sizes_differ_and_some_are_refused(encoder, draw, extract):
    import segmentation_models_pytorch as smp
    import torch

    Image.new("RGB", (70, 45)).save(draw.folder / f"{draw.names[3]}.png")
    path, failures = extract()
    assert failures == {}
    assert np.isfinite(read_features(path)).all()
    vit = smp.create_model("DPT", encoder_name="tu-test_vit", encoder_weights=None).eval().encoder
    cpu = torch.device("cpu")
    with torch.inference_mode():
        assert pooled_features(vit, torch.zeros((2, 160, 160, 3), dtype=torch.uint8), cpu).shape == (2, 64)
    vit = (
        smp.create_model("DPT", encoder_name="tu-vit_tiny_patch16_224", encoder_weights=None, classes=7).eval().encoder
    )
    assert "the encoder does not take images of 64x32 pixels (" in refusal(vit, (32, 64), cpu)
    assert refusal(encoder, (32, 64), cpu) is None


@pytest.mark.gpu
def test_a_gpu_gives_the_features_of_a_cpu(encoder, draw):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    images = torch.from_numpy(np.stack([draw.image(index) for index in range(len(draw))]))
    with torch.inference_mode():
        wanted = pooled_features(encoder, images, torch.device("cpu"))
        found = pooled_features(encoder.cuda(), images, torch.device("cuda")).cpu()
    encoder.cpu()
    assert (found - wanted).abs().max() < 2e-3 * wanted.abs().max()  # bfloat16 is off by 8e-3


def test_partial_features_of_a_set_with_a_longer_name_are_left_alone(encoder, draw, extract):
    path, _ = extract()
    other = path.with_name(f"test.old.{'1' * 16}.npy")
    own = path.with_name(f"test.{'1' * 16}.npy")
    for file in (other, own):
        file.write_bytes(b"")
    extract()
    assert other.exists()
    assert not own.exists()


def test_standardising_is_scikit_learns(monkeypatch):
    from sklearn.preprocessing import StandardScaler

    monkeypatch.setattr(features, "ROWS_AT_ONCE", 7)
    found = np.random.default_rng(0).normal(3, 5, (50, 6)).astype(np.float32)
    found[:, 2] = 0.1
    found[:, 4] += 1e4
    wanted = StandardScaler().fit_transform(found.astype(np.float64))
    standardise(found)
    assert np.abs(found - wanted).max() < 1e-6
    assert not found[:, 2].any()


def test_sets_are_loaded_one_after_the_other(draw, tmp_path):
    rows = np.arange(16, dtype=np.float32).reshape(8, 2)
    np.savez(tmp_path / "a.npz", features=rows)
    np.savez(tmp_path / "b.npz", features=rows + 1)
    found = load_all([replace(draw, name="a"), replace(draw, name="b")], tmp_path)
    assert np.allclose(found[8:] - found[:8], found[8, 0] - found[0, 0])
    assert np.abs(found.mean(axis=0)).max() < 1e-6


def test_a_draw_is_seeded_and_the_same_of_folders_with_the_same_names(tmp_path):
    folders = [make_dataset(tmp_path / name, test=30, seed=k) / "test" / "images" for k, name in enumerate("ab")]
    one, other = (draw_images("x", folder, 10, 42) for folder in folders)
    assert one.names.tolist() == other.names.tolist() == sorted(set(one.names.tolist()))
    assert len(one) == 10
    assert one.names.tolist() != draw_images("x", folders[0], 10, 43).names.tolist()
    assert len(draw_images("x", folders[0], 31, 0)) == 30


def test_images_of_one_place_share_a_block_and_drawn_ones_are_their_own(tmp_path):
    real = make_dataset(tmp_path / "ARAS400k", train=3) / "train" / "images"
    synth = tmp_path / "ARAS400k" / "synth" / "images"
    synth.mkdir(parents=True)
    for name in ("000000", "000001"):
        Image.new("RGB", (8, 8)).save(synth / f"{name}.png")
    draws = [draw_images(n, f, 9, 0) for n, f in (("real", real), ("twins", real), ("one", synth), ("two", synth))]
    found = blocks_of_draws(draws)
    assert len(set(found[:6])) == 1
    assert len(set(found[6:])) == 4


def test_the_file_is_a_plain_npz(extract):
    path, _ = extract()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["features.npy", "names.npy", "key.npy"]
