"""A tiny StyleGAN2 learns what real land looks like from above: the distance of its images to real ones falls."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from tiny_stylegan import invoke

import dataset_creator
import dataset_tool
from runs import sample_region
from stylegan_distances import FeatureSums, frechet_distance
from stylegan_snapshot import load_snapshot

FACTOR = 50
"""By which the distance falls at least. It fell from 12.3 to 0.026, 468 times, in two minutes of one core."""


def invoked(main, *words):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Patches of the sample region, 32 px: each pixel the mean of four."""
    folder = tmp_path_factory.mktemp("region")
    invoked(sample_region.main, "--outdir", folder)
    tiles = ("--s2", folder / "S2RGB_2021", "--worldcover", folder / "worldcover_2021")
    invoked(dataset_creator.main, *tiles, "--output", folder / "ARAS400k", "--patch-size", 64)
    source, small = folder / "ARAS400k" / "train" / "images", folder / "small"
    invoked(dataset_tool.main, "--source", source, "--dest", small, "--resolution", "32x32", "--resize-filter", "box")
    return small


def features(images):
    """Return (N, 96) the mean and the deviation of each colour in 16 squares of `images` (N, 3, 32, 32) of 0 to 1."""
    squares = images.unfold(2, 8, 8).unfold(3, 8, 8).flatten(4)  # (N, 3, 4, 4, 64)
    return torch.cat([squares.mean(4).flatten(1), squares.std(4).flatten(1)], 1)


def moments(images):
    sums = FeatureSums(96)
    sums.add(features(images))
    return sums.mean_and_covariance()


@pytest.mark.slow
def test_the_distance_to_real_images_falls(images, tmp_path):
    options = ("--cfg", "stylegan2", "--gpus", 1, "--batch", 16, "--gamma", 0.02, "--cbase", 256, "--cmax", 32)
    options += ("--map-depth", 2, "--glr", 0.004, "--dlr", 0.004, "--dihedral", 1, "--aug", "noaug")
    options += ("--kimg", 16, "--tick", 4, "--snap", 4, "--metrics", "none", "--workers", 0, "--device", "cpu")
    result = invoke("--outdir", tmp_path, "--data", images, *options)
    assert result.exit_code == 0, result.output
    (folder,) = tmp_path.glob("00000-*")
    paths = sorted(images.rglob("*.png"))
    real = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    real_moments = moments(torch.from_numpy(real).permute(0, 3, 1, 2) / 255)
    found = []
    for path in sorted(folder.glob("network-snapshot-*.safetensors")):
        G = load_snapshot(path).G_ema
        z = torch.from_numpy(np.random.RandomState(0).randn(1000, 512)).float()
        with torch.no_grad():
            fakes = torch.cat([G(part, None, noise_mode="const") for part in z.split(50)])
        fakes = (fakes * 127.5 + 128).clamp(0, 255).to(torch.uint8)
        found.append(frechet_distance(*real_moments, *moments(fakes / 255)))
    print(json.dumps(found))
    assert found[-1] * FACTOR < found[0], found
