"""The perceptual term: what it measures, where gradients go, and which files hold its weights."""

import pytest

from aras.errors import UserError
from aras.training import share_cores

share_cores()


@pytest.fixture(scope="module")
def layers():
    import torch

    from aras.spade.perceptual import drawn_features

    torch.manual_seed(0)
    return drawn_features()


def images(seed):
    import torch

    return torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_it_is_the_mean_difference_of_relu3_3_of_images_normalised_as_imagenets(layers):
    import torch

    from aras.spade.perceptual import Perceptual

    fake, real = images(0), images(1)
    mean, deviation = (torch.tensor(of).view(1, 3, 1, 1) for of in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        features = [layers(((each + 1) / 2 - mean) / deviation) for each in (fake, real)]
    assert features[0].shape == (1, 256, 8, 8)
    expected = float((features[0] - features[1]).abs().mean())
    term = Perceptual(layers)
    assert float(term(fake, real)) == pytest.approx(expected, rel=1e-5)
    assert float(term(real, real)) == 0


def test_gradients_go_to_the_fake_alone(layers):
    from aras.spade.perceptual import Perceptual

    fake, real = images(0).requires_grad_(), images(1).requires_grad_()
    term = Perceptual(layers)
    term(fake, real).backward()
    assert float(fake.grad.abs().max()) > 0
    assert real.grad is None
    assert all(weights.grad is None and not weights.requires_grad for weights in term.parameters())


@pytest.mark.parametrize("prefix", ["features.", ""])
def test_weights_of_the_whole_network_or_of_its_features_alone(layers, tmp_path, prefix):
    import torch

    from aras.spade.perceptual import load_perceptual

    path = tmp_path / "vgg19.pth"
    more = {"classifier.6.bias": torch.zeros(1000)} if prefix else {"34.bias": torch.zeros(512)}
    torch.save({prefix + name: tensor for name, tensor in layers.state_dict().items()} | more, path)
    found = load_perceptual(str(path))
    assert all(torch.equal(one, other) for one, other in zip(found.parameters(), layers.parameters(), strict=True))


def test_what_is_no_vgg19_is_one_line(layers, tmp_path):
    import torch

    from aras.spade.perceptual import load_perceptual

    path = tmp_path / "vgg19.pth"
    with pytest.raises(UserError, match=r"vgg19\.pth is missing"):
        load_perceptual(str(path))
    torch.save({"features.0.weight": torch.zeros(64, 1, 3, 3)}, path)
    with pytest.raises(UserError, match=r"has no features\.0\.weight of shape \(64, 3, 3, 3\)"):
        load_perceptual(str(path))
    assert load_perceptual("none") is None


def test_the_cache_of_downloads_is_used_and_without_it_and_a_way_out_there_is_no_term(layers, tmp_path, monkeypatch):
    import torch

    from aras.spade import perceptual

    file = tmp_path / "vgg19-dcbb9e9d.pth"
    file.touch()
    monkeypatch.setenv("TORCH_HOME", str(file))  # a cache that cannot be written
    monkeypatch.setattr(perceptual, "URL", file.as_uri())  # it can be reached
    assert perceptual.load_perceptual("auto") is None
    monkeypatch.undo()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(perceptual, "URL", "http://127.0.0.1:9/vgg19-dcbb9e9d.pth")  # nobody listens
    assert perceptual.load_perceptual("auto") is None
    path = tmp_path / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({f"features.{name}": tensor for name, tensor in layers.state_dict().items()}, path)
    assert perceptual.load_perceptual("auto") is not None
