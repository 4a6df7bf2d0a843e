"""StyleGAN2 and the discriminator: tensors, numbers against the plain formulation, first and second derivatives."""

import math
from pathlib import Path

import plain_stylegan as plain
import pytest
import torch

from stylegan2_networks import Noise, SynthesisLayer
from stylegan_networks import build_discriminator, build_generator

TENSORS = (Path(__file__).parent / "stylegan2_tensors.txt").read_text().splitlines()


def generator(**changes):
    config = {"kind": "stylegan2", "z_dim": 512, "c_dim": 0, "w_dim": 512, "resolution": 256, "channels": 3}
    config |= {"channel_base": 16384, "channel_max": 512, "map_depth": 8, "num_fp16_res": 4, "conv_clamp": 256}
    return build_generator(config | changes)


def discriminator(**changes):
    config = {"kind": "stylegan2-discriminator", "c_dim": 0, "resolution": 256, "channels": 3, "freeze_layers": 0}
    config |= {"channel_base": 16384, "channel_max": 512, "num_fp16_res": 4, "conv_clamp": 256, "mbstd_group": 4}
    return build_discriminator(config | changes)


TINY = {"resolution": 16, "channel_base": 64, "channel_max": 8}


def tiny(seed=0, clamp=256, c_dim=0):
    """Return a tiny generator and discriminator in float64, all of whose parameters matter."""
    torch.manual_seed(seed)
    G = generator(**TINY, z_dim=6, w_dim=5, map_depth=2, conv_clamp=clamp, c_dim=c_dim).double()
    D = discriminator(**TINY, conv_clamp=clamp, c_dim=c_dim).double()
    with torch.no_grad():
        for name, parameter in (*G.named_parameters(), *D.named_parameters()):
            if name.endswith(("bias", "noise_strength")):
                parameter += 0.3 * torch.randn_like(parameter)
    return G, D


def listed(name):
    """Return of the published `name` network 'P' or 'B' and shape by tensor."""
    start = next(i for i, line in enumerate(TENSORS) if line.startswith(f"network {name} "))
    found = {}
    for line in TENSORS[start + 1 :]:
        if line.startswith("network"):
            break
        kind, tensor, shape = line.split(" ", 2)
        found[tensor] = kind, tuple(int(size) for size in shape.strip("[]").split(",") if size)
    return found


def tensors_of(network):
    return {name: ("P", tuple(tensor.shape)) for name, tensor in network.named_parameters()} | {
        name: ("B", tuple(tensor.shape)) for name, tensor in network.named_buffers()
    }


def test_tensors_have_the_published_names_and_shapes():
    assert tensors_of(generator()) == listed("G")
    assert tensors_of(discriminator()) == listed("D")


@pytest.mark.parametrize("line", [line for line in TENSORS if line.startswith("network")])
def test_tensors_count_as_published(line):
    words = line.split()
    base, depth, parameters, buffers, *counts = (int(words[i]) for i in (3, 5, 7, 9, 11, 12))
    with torch.device("meta"):
        changes = {"channel_base": base}
        network = generator(**changes, map_depth=depth) if words[1] == "G" else discriminator(**changes)
    assert sum(tensor.numel() for tensor in network.parameters()) == parameters
    assert sum(tensor.numel() for tensor in network.buffers()) == buffers
    assert [len(list(network.parameters())), len(list(network.buffers()))] == counts


def test_the_mapping_is_the_plain_one():
    G, _ = tiny(c_dim=3)
    z, c = torch.randn(4, 6).double(), torch.eye(3)[[0, 1, 2, 0]].double()
    ws = G.mapping(z, c)
    torch.testing.assert_close(ws, plain.mapped(G.state_dict(), z, c)[:, None].expand_as(ws))


def test_truncation_goes_towards_the_average_in_the_layers_below_its_cutoff():
    G, _ = tiny()
    z = torch.randn(4, 6).double()
    G.mapping(z)
    assert not G.mapping.w_avg.any()
    w = G.mapping(z, update_averages=True)
    torch.testing.assert_close(G.mapping.w_avg, 0.002 * w[:, 0].mean(0).detach())
    G.mapping.w_avg.copy_(torch.randn(5))
    cut = G.mapping(z, truncation=0.3, truncation_cutoff=2)
    torch.testing.assert_close(cut[:, :2], G.mapping.w_avg + 0.3 * (w[:, :2] - G.mapping.w_avg))
    torch.testing.assert_close(cut[:, 2:], w[:, 2:])
    torch.testing.assert_close(G.mapping(z, truncation=0)[2, 3], G.mapping.w_avg)


@pytest.mark.parametrize("clamp", [None, 256, 0.8])
@pytest.mark.parametrize("fused", [False, True])
def test_the_synthesis_is_the_plain_one(clamp, fused):
    G, _ = tiny(clamp=clamp)
    ws = torch.randn(3, G.num_ws, 5).double()
    assert G.num_ws == 6
    for mode in ("const", "none"):
        image = G.synthesis(ws, noise_mode=mode, fused=fused)
        assert image.shape == (3, 3, 16, 16)
        torch.testing.assert_close(image, plain.synthesised(G.state_dict(), ws, mode, clamp))


@pytest.mark.parametrize("clamp", [None, 256, 0.5])
@pytest.mark.parametrize("c_dim", [0, 3])
def test_the_discriminator_is_the_plain_one(clamp, c_dim):
    _, D = tiny(clamp=clamp, c_dim=c_dim)
    images, c = torch.randn(8, 3, 16, 16).double(), torch.randn(8, c_dim).double() if c_dim else None
    logits = D(images, c)
    assert logits.shape == (8, 1)
    torch.testing.assert_close(logits, plain.judged(D.state_dict(), images, c, 4, clamp))


def gradient_penalty(D, images):
    """Return the mean squared gradient of the logits by `images` (R1)."""
    images = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(D(images).sum(), images, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


def path_length(G, ws, pixels):
    """Return the mean squared length of the gradient of the images, projected onto `pixels`, by `ws`."""
    ws = ws.detach().requires_grad_()
    image = G.synthesis(ws, noise_mode="const")
    (gradient,) = torch.autograd.grad((image * pixels).sum(), ws, create_graph=True)
    return gradient.square().sum((1, 2)).mean()


def check_gradient(loss, network):
    """Check the gradient of `loss` by the parameters of `network` against a central difference along a direction."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
    generator = torch.Generator().manual_seed(7)
    for chosen in range(len(parameters)):
        if gradients[chosen] is None:
            continue
        parameter = parameters[chosen]
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        values = []
        for step in (1e-5, -2e-5, 1e-5):
            with torch.no_grad():
                parameter += step * direction
            values.append(loss().item())
        numeric = (values[0] - values[1]) / 2e-5
        exact = (gradients[chosen] * direction).sum().item()
        assert math.isclose(numeric, exact, rel_tol=1e-4, abs_tol=1e-7 + 1e-6 * abs(values[2])), chosen


def test_the_penalty_on_the_discriminator_s_gradient_has_the_right_gradient():
    _, D = tiny()
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)).double()
    check_gradient(lambda: gradient_penalty(D, images), D)


def test_path_lengths_have_the_right_gradient():
    G, _ = tiny()
    source = torch.Generator().manual_seed(1)
    ws, pixels = (torch.randn(shape, generator=source).double() for shape in ((2, G.num_ws, 5), (2, 3, 16, 16)))
    check_gradient(lambda: path_length(G, ws, pixels), G.synthesis)


def test_an_image_s_noise_follows_from_its_seed_whatever_the_batch():
    G, _ = tiny()
    ws = torch.randn(3, G.num_ws, 5).double()
    images = G.synthesis(ws, noise_seeds=[5, 6, 7])
    torch.testing.assert_close(G.synthesis(ws[1:2], noise_seeds=[6]), images[1:2])
    assert not torch.equal(G.synthesis(ws[1:2], noise_seeds=[5]), images[1:2])
    torch.manual_seed(0)
    first = G.synthesis(ws)
    torch.manual_seed(0)
    assert torch.equal(G.synthesis(ws), first)
    assert not torch.equal(G.synthesis(ws), first)


@pytest.mark.parametrize(
    ("count", "frozen"),
    [
        (2, {"b16.fromrgb", "b16.conv0"}),
        (5, {"b16.fromrgb", "b16.conv0", "b16.conv1", "b16.skip", "b8.conv0"}),
        (99, {"b16.fromrgb", "b16.conv0", "b16.conv1", "b16.skip", "b8.conv0", "b8.conv1", "b8.skip"}),
    ],
)
def test_frozen_layers_are_buffers_with_the_same_names(count, frozen):
    free, D = discriminator(**TINY), discriminator(**TINY, freeze_layers=count)
    D.load_state_dict(free.state_dict())
    layers = [{name.rpartition(".")[0] for name, _ in network.named_parameters()} for network in (free, D)]
    assert layers[0] - layers[1] == frozen
    D(torch.randn(4, 3, 16, 16)).sum().backward()
    assert all(parameter.grad is not None for parameter in D.parameters())


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_survives_large_styles(up, dtype, error):
    torch.manual_seed(0)
    layer = SynthesisLayer(32, 16, 8, 16 if up else 8, up, 256)
    layer.noise_strength.data.fill_(0.1)
    x, w = torch.randn(2, 32, 8, 8) * 3000, torch.randn(2, 8) * 3000
    noise = Noise("const", None)
    exact = layer.double()(x.double(), w.double(), noise, False)
    found = layer.float()(x.to(dtype), w, noise, False)
    assert found.dtype == dtype
    scale = exact.square().mean().sqrt()
    assert (found.double() - exact).square().mean().sqrt() < error * scale


def test_outputs_start_with_the_variance_that_the_learning_rates_count_on():
    torch.manual_seed(0)
    G, D = generator(resolution=32, channel_base=2048), discriminator(resolution=32, channel_base=2048)
    with torch.no_grad():
        z = torch.randn(16, 512)
        w = G.mapping(z)[:, 0]
        images = G(z)
        logits = D(images)
    assert 0.5 < w.std() < 2
    assert 0.5 < images.std() < 4
    assert 0.05 < logits.abs().mean() < 20


def test_what_cannot_be_built_is_told():
    with pytest.raises(ValueError, match="resolution 48: stylegan2 needs a power of two from 8"):
        generator(resolution=48)
    with pytest.raises(ValueError, match="stylegan3-t needs a power of two from 16"):
        generator(kind="stylegan3-t", resolution=8)
    with pytest.raises(ValueError, match="kind 'other' of a generator"):
        generator(kind="other")
    with pytest.raises(ValueError, match="only stylegan2-discriminator"):
        discriminator(kind="other")


@pytest.mark.slow
def test_compiled_networks_are_the_same_ones():
    torch.manual_seed(0)
    G, D = generator(**TINY), discriminator(**TINY)
    synthesis, judge = (torch.compile(run, backend="aot_eager", fullgraph=True) for run in (G.synthesis, D))
    ws = torch.randn(4, G.num_ws, 512)
    parameters = [*G.synthesis.parameters(), *D.parameters()]
    results = []
    for images, logits in ((G.synthesis, D), (synthesis, judge)):
        found = logits(images(ws, noise_mode="const"))
        results.append((found, torch.autograd.grad(found.sum(), parameters, allow_unused=True)))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)
