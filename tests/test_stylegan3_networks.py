"""StyleGAN3-T and -R: tensors, schedule, numbers against the plain formulation, how well images follow motion."""

import ast
import copy
import math
from pathlib import Path

import plain_stylegan3 as plain
import pytest
import torch

import stylegan_equivariance as equivariance
from stylegan3_networks import schedule
from stylegan_networks import build_generator

LINES = (Path(__file__).parent / "stylegan3_tensors.txt").read_text().splitlines()
KINDS = ("stylegan3-t", "stylegan3-r")


def generator(kind, **changes):
    config = {"kind": kind, "z_dim": 512, "c_dim": 0, "w_dim": 512, "resolution": 256, "channels": 3}
    config |= {"channel_base": 16384, "channel_max": 512, "map_depth": 2, "num_fp16_res": 4, "conv_clamp": 256}
    return build_generator(config | {"magnitude_ema_beta": 0.9} | changes)


def tiny(kind, seed=0, **changes):
    """Return a generator for 32 px that is quick and all of whose tensors matter."""
    torch.manual_seed(seed)
    changes = {"z_dim": 8, "w_dim": 8, "resolution": 32, "channel_base": 128, "channel_max": 6} | changes
    G = generator(kind, **changes)
    with torch.no_grad():
        for name, parameter in G.synthesis.named_parameters():
            if name.endswith("bias") or name == "input.affine.weight":
                parameter += 0.2 * torch.randn_like(parameter)
        for layer in layers(G):
            layer.magnitude_ema.uniform_(0.5, 2)
    return G


def layers(G):
    return [getattr(G.synthesis, name) for name in G.synthesis.names]


def listed(first):
    return [line.split(" ", 3) for line in LINES if line.startswith(first)]


# ---------------------------------------------------------------------------------------------- published networks


def test_tensors_have_the_published_names_and_shapes():
    G = generator("stylegan3-t")
    have = {name: ("P", tuple(tensor.shape)) for name, tensor in G.named_parameters()}
    have |= {name: ("B", tuple(tensor.shape)) for name, tensor in G.named_buffers()}
    assert have == {
        name: (kind, tuple(int(size) for size in shape.strip("[]").split(",") if size))
        for _, kind, name, shape in listed("tensor ")
    }
    assert G.num_ws == 16


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("network ")])
def test_tensors_count_as_published(line):
    words = line.split()
    base, parameters, buffers, *counts = (int(words[i]) for i in (3, 5, 7, 9, 10))
    with torch.device("meta"):
        G = generator(f"stylegan3-{words[1]}", channel_base=base)
    assert sum(tensor.numel() for tensor in G.parameters()) == parameters
    assert sum(tensor.numel() for tensor in G.buffers()) == buffers
    assert [len(list(G.parameters())), len(list(G.buffers()))] == counts


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_is_as_published(kind):
    with torch.device("meta"):
        G = generator(kind)
    signals = schedule(256, 3, 16384 * (1 + (kind[-1] == "r")), 512 * (1 + (kind[-1] == "r")))
    found = {line[2]: line[3] for line in listed(f"layer {kind[-1]}")}
    assert G.synthesis.names == list(found)
    for i, (name, told) in enumerate(found.items()):
        head, pad = told.split(" pad ")
        words = [*head.split(), "pad", *pad.split("] ")[1:]]
        layer, before, after = getattr(G.synthesis, name), signals[max(i - 1, 0)], signals[i]

        def number(word, offset=1, words=words):
            return float(words[words.index(word) + offset])

        assert (before.size, after.size, before.rate, after.rate) == tuple(
            number(word, offset) for word, offset in (("in", 1), ("out", 1), ("sr", 1), ("sr", 2))
        )
        assert layer.weight.shape[1::-1] == (number("ch"), number("ch", 2))
        if kind == "stylegan3-t":
            assert [before.cutoff, after.cutoff] == pytest.approx([number("cut"), number("cut", 2)], abs=6e-4)
            assert [before.half_width, after.half_width] == pytest.approx([number("hw"), number("hw", 2)], abs=6e-4)
            assert layer.in_half == ("fp16 True" in told)
        if i < 14:
            sampling = layer.sampling
            assert list(sampling.padding * 2) == ast.literal_eval(pad.split("]")[0] + "]")
            assert (sampling.up, sampling.up_taps) == (number("up"), number("up", 2))
            assert (sampling.down, sampling.down_taps) == (number("down"), number("down", 2))
            assert (layer.down_filter.ndim == 2) == ("radial True" in told)


@pytest.mark.parametrize("resolution", [16, 32, 64, 128, 512, 1024])
@pytest.mark.parametrize("kind", KINDS)
def test_other_resolutions_hold_together(kind, resolution):
    with torch.device("meta"):
        G = generator(kind, resolution=resolution)
    sizes = [int(name.split("_")[1]) for name in G.synthesis.names]
    assert sizes == sorted(sizes[:-2]) + [resolution] * 2
    for layer, size in zip(layers(G)[1:-1], sizes, strict=False):
        assert layer.sampling.size_in == size + layer.weight.shape[-1] - 1


# ---------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("kind", "clamp", "side"), [("stylegan3-t", 256, 32), ("stylegan3-t", 0.8, 16), ("stylegan3-r", 0.8, 16)]
)
def test_images_are_those_of_the_plain_formulation(kind, clamp, side):
    G = tiny(kind, conv_clamp=clamp, channel_max=2, resolution=side).double()
    G.synthesis.input.transform.copy_(equivariance.input_transform(0.1, -0.2, 0.4))
    ws = torch.randn(2, G.num_ws, 8).double()
    factor = 1 + (kind == "stylegan3-r")
    wanted = plain.synthesised(G.state_dict(), ws, schedule(side, 3, 128 * factor, 2 * factor), clamp)
    torch.testing.assert_close(G.synthesis(ws), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_plain_formulation(kind):
    G = tiny(kind, resolution=16, channel_max=2).double()
    ws = torch.randn(2, G.num_ws, 8).double()
    factor = 1 + (kind == "stylegan3-r")
    tensors = dict(G.synthesis.named_parameters(prefix="synthesis"))
    direction = torch.randn(2, 3, 16, 16).double()
    learnt = [name for name in tensors if not name.startswith("synthesis.input.affine")]  # there, built of numbers
    wanted = plain.synthesised(G.state_dict() | tensors, ws, schedule(16, 3, 128 * factor, 2 * factor), 256)
    wanted = torch.autograd.grad(wanted, [tensors[name] for name in learnt], direction)
    found = torch.autograd.grad(G.synthesis(ws), [tensors[name] for name in learnt], direction)
    for name, one, other in zip(learnt, found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5, msg=name)


def test_gradients_of_the_input_are_those_of_finite_differences():
    network = tiny("stylegan3-t", channel_max=2).double().synthesis.input
    network.signal = copy.copy(network.signal)
    object.__setattr__(network.signal, "size", 5)
    w = torch.randn(2, 8).double().requires_grad_()
    assert torch.autograd.gradcheck(network, w)


def test_averages_follow_only_when_asked_and_bring_features_to_unit_size():
    G = tiny("stylegan3-t", magnitude_ema_beta=0.5, channel_max=2, resolution=16)
    z = torch.randn(2, 8)
    before = [layer.magnitude_ema.clone() for layer in layers(G)]
    G(z)
    assert [layer.magnitude_ema for layer in layers(G)] == before
    for _ in range(16):
        G(z, update_averages=True)
    x = G.synthesis.input(G.mapping(z)[:, 0])
    torch.testing.assert_close(layers(G)[0].magnitude_ema, x.square().mean(), rtol=1e-4, atol=0)
    assert not any(layer.magnitude_ema.requires_grad for layer in layers(G))


def test_an_image_does_not_depend_on_its_batch():
    G = tiny("stylegan3-r")
    z = torch.randn(5, 8) * torch.tensor([[0.1], [1.0], [30.0], [1.0], [1.0]])
    images = G(z)
    for i in range(5):
        torch.testing.assert_close(G(z[i : i + 1])[0], images[i], rtol=0, atol=2e-6)


def test_filters_that_are_loaded_are_used():
    G, other = tiny("stylegan3-r"), tiny("stylegan3-r", seed=1)
    z = torch.randn(2, 8)
    other(z)  # its matrices are made
    with torch.no_grad():
        for layer in layers(G)[:-1]:
            layer.up_filter.mul_(1.1)
            layer.down_filter.mul_(0.9)
    other.load_state_dict(G.state_dict())
    assert torch.equal(other(z), G(z))
    assert torch.equal(copy.deepcopy(other)(z), G(z))


def test_networks_that_were_made_in_inference_mode_draw():
    G = tiny("stylegan3-r", resolution=16, channel_max=2)
    ws = torch.randn(1, G.num_ws, 8).double()
    with torch.inference_mode():
        moved = copy.deepcopy(G).double()  # its filters are new tensors, as on the way to a GPU
        assert moved.synthesis.L0_36_4.up_filter.is_inference()
        torch.testing.assert_close(moved.synthesis(ws).float(), G.synthesis(ws.float()), rtol=0, atol=1e-5)


def test_a_layer_keeps_its_input_and_what_comes_out_of_its_convolution():
    G = tiny("stylegan3-t")
    layer = layers(G)[5]
    x = torch.randn(2, layer.weight.shape[1], layer.sampling.size_in - 2, layer.sampling.size_in - 2).requires_grad_()
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.update({tensor.data_ptr(): tensor}) or tensor, lambda tensor: tensor
    ):
        layer(x, torch.randn(2, 8))
    large = sorted(tensor.numel() for tensor in kept.values() if tensor.numel() > x.numel() / 2)
    assert large == sorted([x.numel(), 2 * len(layer.bias) * layer.sampling.size_in**2])


# ---------------------------------------------------------------------------------------------- equivariance
# Of three seeds: translation at least 40 dB (-t) and 56 dB (-r), rotation of -r 54 dB, of -t at most 18 dB; with
# aliasing layers at most 16 dB.


def aliasing(G):
    """Return a copy whose layers repeat samples on the way up and drop some on the way down."""
    G = copy.deepcopy(G)
    for layer in layers(G)[:-1]:
        for taps, width in ((layer.up_filter, layer.sampling.up), (layer.down_filter, 1)):
            first = (len(taps) - width) // 2
            box = torch.zeros(len(taps))
            box[first : first + width] = 1 / width
            taps.copy_(box if taps.ndim == 1 else torch.outer(box, box))
    return G


def follows(G, right=0.0, down=0.0, angle=0.0):
    """Return by how many dB an image's variance exceeds the error of the image of a moved input."""
    side = G.resolution
    torch.manual_seed(2)
    ws = G.mapping(torch.randn(4, 8))
    G.synthesis.input.transform.copy_(torch.eye(3))
    still = G.synthesis(ws)
    G.synthesis.input.transform.copy_(equivariance.input_transform(right / side, down / side, angle))
    moved = G.synthesis(ws)
    if angle:
        ideal, known = equivariance.rotate(still, angle)
        moved, limited = equivariance.rotation_limited(moved, angle)
        known = known * limited
    elif right % 1 or down % 1:
        ideal, known = equivariance.translate_fractional(still, right, down)
    else:
        ideal, known = equivariance.translate_integer(still, int(right), int(down))
    squares, count = equivariance.compare(moved, ideal, known)
    assert count > 0.2 * still.numel()
    return 10 * math.log10(still.var() * count / squares)


@pytest.fixture(scope="module")
def moving():
    """Generators by kind whose features have unit size, as training keeps them."""
    found = {}
    for kind in KINDS:
        torch.manual_seed(1)
        G = generator(kind, z_dim=8, w_dim=8, resolution=32, channel_base=512, channel_max=16).requires_grad_(False)
        G(torch.randn(4, 8), update_averages=True)
        found[kind] = G
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("motion", [(3, -2), (2.4, -3.3)])
def test_images_follow_translation_and_would_not_if_layers_aliased(moving, kind, motion):
    assert follows(moving[kind], *motion) > 35
    assert follows(aliasing(moving[kind]), *motion) < 20


def test_images_of_r_follow_rotation_and_those_of_t_do_not(moving):
    assert follows(moving["stylegan3-r"], angle=0.7) > 45
    assert follows(moving["stylegan3-t"], angle=0.7) < 25
    assert follows(aliasing(moving["stylegan3-r"]), angle=0.7) < 20


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_makes_the_images_of_a_cpu(kind):
    G = tiny(kind)
    z = torch.randn(4, 8)
    wanted = G(z)
    G.cuda()
    torch.testing.assert_close(G(z.cuda(), force_fp32=True).cpu(), wanted, rtol=0, atol=1e-4)
    half = G(z.cuda())
    assert half.dtype == torch.float32
    assert (half.cpu() - wanted).square().mean() < 1e-3 * wanted.var()
    half.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in G.parameters())
