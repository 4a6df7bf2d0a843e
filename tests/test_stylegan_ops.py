"""StyleGAN2's operations against the plain formulation, in float64, and their first and second derivatives."""

import math

import plain_stylegan as plain
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from stylegan_ops import (
    activation,
    conv2d_down2,
    conv2d_up2,
    demodulation,
    downsample2,
    minibatch_deviation,
    modulated_conv2d,
    resample_filter,
    upsample2,
)

TAPS = resample_filter().double()


def drawn(*shape, seed=0, grad=True):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_(grad)


def composed(weight, gain):
    """Return the weight (O, I, 3, 3) convolved with the filter, (O, I, 6, 6)."""
    outputs, inputs = weight.shape[:2]
    flat = weight.reshape(outputs * inputs, 1, 3, 3)
    return F.conv2d(flat, gain * TAPS[None, None], padding=3).reshape(outputs, inputs, 6, 6)


def test_upsampling_puts_zeros_between_pixels_and_is_bilinear_but_for_its_border():
    x = drawn(2, 3, 6, 8)
    y = upsample2(x, TAPS)
    torch.testing.assert_close(y, plain.upsampled(x))
    bilinear = F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=2, mode="bilinear")[:, :, 2:-2, 2:-2]
    torch.testing.assert_close(y, bilinear)
    torch.testing.assert_close(upsample2(torch.ones(1, 1, 4, 4), TAPS.float())[..., 1:-1, 1:-1], torch.ones(1, 1, 6, 6))


def test_downsampling_keeps_the_mean_and_is_upsampling_s_adjoint():
    x, small = drawn(2, 3, 6, 8), drawn(2, 3, 3, 4, seed=1)
    y = downsample2(x, TAPS)
    torch.testing.assert_close(y, plain.downsampled(x))
    torch.testing.assert_close((y * small).sum() * 4, (x * upsample2(small, TAPS)).sum())
    torch.testing.assert_close(
        downsample2(torch.ones(1, 1, 8, 8), TAPS.float())[..., 1:-1, 1:-1], torch.ones(1, 1, 2, 2)
    )


def test_a_filter_that_is_not_symmetric_is_turned_in_its_adjoint():
    taps = drawn(4, 4, seed=3, grad=False)
    for resampled in (upsample2, downsample2):
        assert gradcheck(lambda x, resampled=resampled: resampled(x, taps), drawn(1, 2, 4, 6))
    weight = drawn(2, 2, 3, 3, seed=4)
    assert gradcheck(lambda x, w: conv2d_up2(x, w, taps), (drawn(1, 2, 3, 3), weight))
    assert gradcheck(lambda x, w: conv2d_down2(x, w, taps), (drawn(1, 2, 4, 4), weight))


def test_convolution_onto_twice_the_size_is_one_composite_transposed_convolution():
    x, weight = drawn(2, 3, 5, 4), drawn(4, 3, 3, 3, seed=1)
    y = conv2d_up2(x, weight, TAPS)
    spread = F.conv2d(F.pad(plain.zeros_between(x), (2, 1, 2, 1)), weight.flip(2, 3))  # turned: a true convolution
    torch.testing.assert_close(y, plain.filtered(spread, (1, 1), gain=4))
    torch.testing.assert_close(y, F.conv_transpose2d(x, composed(weight, 4).transpose(0, 1), stride=2, padding=2))


@pytest.mark.parametrize("size", [1, 3])
def test_convolution_onto_half_the_size_is_one_composite_convolution(size):
    x, weight, bias = drawn(2, 3, 6, 4), drawn(4, 3, size, size, seed=1), drawn(4, seed=2)
    y = conv2d_down2(x, weight, TAPS, bias)
    pad = size // 2 + 1
    expected = F.conv2d(plain.filtered(x, (pad, pad)), weight, bias)[:, :, ::2, ::2]
    torch.testing.assert_close(y, expected)
    if size == 3:
        torch.testing.assert_close(y, F.conv2d(x, composed(weight, 1), bias, stride=2, padding=2))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("up", "size"), [(False, 1), (False, 3), (True, 3)])
def test_modulated_convolution_is_that_of_each_image_by_its_own_weight(fused, up, size):
    x, weight, styles = drawn(3, 4, 5, 6), drawn(2, 4, size, size, seed=1), drawn(3, 4, seed=2)
    y = modulated_conv2d(x, weight, styles, TAPS if up else None, fused)
    torch.testing.assert_close(y, plain.modulated(x, weight, styles, False, up))
    scale = demodulation(weight, styles)
    torch.testing.assert_close(y * scale[:, :, None, None], plain.modulated(x, weight, styles, True, up))


@pytest.mark.parametrize("up", [False, True])
def test_modulated_convolution_is_differentiable_twice(up):
    inputs = drawn(2, 2, 3, 3), drawn(2, 2, 3, 3, seed=1), drawn(2, 2, seed=2)

    def whole(x, weight, styles):
        y = modulated_conv2d(x.tanh(), weight, styles, TAPS if up else None)
        return y * demodulation(weight, styles)[:, :, None, None]

    assert gradcheck(whole, inputs)
    assert gradgradcheck(whole, inputs)


def test_convolution_onto_half_the_size_is_differentiable_twice():
    inputs = drawn(2, 2, 4, 4), drawn(2, 2, 3, 3, seed=1), drawn(2, seed=2)
    assert gradgradcheck(lambda x, w, b: conv2d_down2(x.tanh(), w, TAPS, b), inputs)


ARGUMENTS = {
    "scale": lambda: drawn(2, 3, seed=1).detach().abs().add(0.5).requires_grad_(),
    "noise": lambda: drawn(2, 1, 4, 4, seed=2, grad=False),
    "strength": lambda: torch.tensor(0.3, dtype=torch.float64, requires_grad=True),
    "bias": lambda: drawn(3, seed=3),
}
"""What `activation` takes besides x (2, 3, 4, 4)."""


@pytest.mark.parametrize("names", [(), ("bias",), ("scale", "bias"), ("noise", "strength", "bias"), tuple(ARGUMENTS)])
@pytest.mark.parametrize(("slope", "gain", "clamp"), [(0.2, math.sqrt(2), 1.1), (0.2, 1.0, None), (1.0, 1.0, 0.7)])
def test_activation_and_both_its_derivatives(names, slope, gain, clamp):
    given = {name: ARGUMENTS[name]() for name in names}
    x = drawn(2, 3, 4, 4)

    def run(x, *values):
        arguments = dict(zip(names, values, strict=True))
        return activation(x.clone(), **arguments, slope=slope, gain=gain, clamp=clamp)

    with torch.no_grad():
        expected = x * given.get("scale", torch.ones(2, 3))[:, :, None, None]
        expected = expected + given.get("noise", torch.zeros(1)) * given.get("strength", 1)
        expected = expected + given.get("bias", torch.zeros(3))[:, None, None]
        expected = F.leaky_relu(expected, slope) * gain
        inside = expected.abs() < (clamp or math.inf)
        expected = expected if clamp is None else expected.clamp(-clamp, clamp)
    assert clamp is None or 0.1 < inside.double().mean() < 0.9
    torch.testing.assert_close(run(x, *given.values()), expected)
    assert gradcheck(run, (x, *given.values()))
    assert gradgradcheck(run, (x, *given.values()))


def test_activation_overwrites_its_input_and_keeps_its_output_alone():
    x, bias = torch.randn(2, 3, 16, 16), torch.zeros(3, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = activation(x, bias, clamp=256)
    assert y.data_ptr() == x.data_ptr()
    assert {t.data_ptr() for t in kept} == {y.data_ptr(), bias.data_ptr()}


def test_modulated_convolution_keeps_its_input_alone():
    x, weight, styles = torch.randn(2, 3, 16, 16), torch.randn(4, 3, 3, 3, requires_grad=True), torch.ones(2, 3)
    styles.requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = modulated_conv2d(x, weight, styles)
    assert {t.data_ptr() for t in kept if t.numel() == x.numel()} == {x.data_ptr()}
    y.sum().backward()
    torch.testing.assert_close(
        weight.grad, torch.autograd.grad(F.conv2d(x, weight, padding=1).sum(), weight)[0], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(("count", "group", "used"), [(8, 4, 4), (6, 4, 3), (2, 4, 2), (5, 4, 1)])
def test_minibatch_deviation_compares_images_that_are_strided_over_the_batch(count, group, used):
    x = drawn(count, 6, 4, 4)
    torch.testing.assert_close(minibatch_deviation(x, group), plain.deviation(x, used))


def test_minibatch_deviation_of_several_features():
    x = drawn(4, 6, 2, 2)
    parts = [plain.deviation(x[:, i : i + 3], 2) for i in (0, 3)]
    torch.testing.assert_close(minibatch_deviation(x, 2, features=2), torch.cat(parts, 1))
