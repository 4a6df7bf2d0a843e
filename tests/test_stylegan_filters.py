"""StyleGAN3's filters against scipy's, and the rectifier between them against its definition."""

import numpy as np
import plain_stylegan3 as plain
import pytest
import scipy.signal
import scipy.special
import torch

import stylegan_resampling
from stylegan_filtered_lrelu import filtered_lrelu
from stylegan_filters import lowpass_filter
from stylegan_resampling import ConvolutionResampler, MatrixResampler, Sampling, band_matrix, separable_terms

# taps, cutoff, half width, rate: of layers at 256 px, from a wide transition to a narrow one
DESIGNS = [
    (12, 2.0, 6.0, 32),
    (24, 4.0, 4.0, 64),
    (12, 45.255, 18.745, 256),
    (12, 128.0, 29.586, 512),
    (12, 8, 0.1, 32),
]

RESAMPLERS = [ConvolutionResampler, MatrixResampler]
SAMPLINGS = [
    Sampling(22, 20, 2, 2, 12, 12),  # at the same rate
    Sampling(18, 24, 4, 2, 24, 12),  # to the next rate
    Sampling(38, 24, 2, 2, 12, 12),  # the last: padding is negative
    Sampling(11, 13, 1, 1, 6, 6),
]


@pytest.mark.parametrize("design", DESIGNS)
def test_a_filter_is_scipys_kaiser_windowed_sinc(design):
    taps, cutoff, half_width, rate = design
    wanted = scipy.signal.firwin(taps, cutoff, width=2 * half_width, fs=rate)
    np.testing.assert_allclose(lowpass_filter(*design), wanted, rtol=0, atol=1e-7)


@pytest.mark.parametrize("design", DESIGNS)
def test_a_radial_filter_is_a_windowed_jinc(design):
    taps, cutoff, half_width, rate = design
    beta = scipy.signal.kaiser_beta(scipy.signal.kaiser_atten(taps, 2 * half_width / (rate / 2)))
    window = np.kaiser(taps, beta)
    wanted = np.empty((taps, taps))
    for i, j in np.ndindex(taps, taps):
        radius = np.hypot(i - (taps - 1) / 2, j - (taps - 1) / 2) / rate
        wanted[i, j] = scipy.special.j1(2 * cutoff * np.pi * radius) / (np.pi * radius) * window[i] * window[j]
    np.testing.assert_allclose(lowpass_filter(*design, radial=True), wanted / wanted.sum(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("radial", [False, True])
@pytest.mark.parametrize("design", DESIGNS)
def test_a_filter_is_the_sum_of_its_separable_terms(design, radial):
    taps = lowpass_filter(*design, radial=radial)
    rows, columns = separable_terms(taps)
    assert len(rows) < (7 if radial else 2)
    torch.testing.assert_close(rows.T @ columns, plain.plane(taps), rtol=0, atol=1e-7)


@pytest.mark.parametrize(("up", "down", "shift"), [(2, 1, 0), (4, 1, 3), (1, 2, 0), (3, 2, 5), (2, 1, -4)])
def test_a_band_matrix_is_scipys_upfirdn(up, down, shift):
    rng = np.random.default_rng(0)
    taps, x = rng.normal(size=7), rng.normal(size=20)
    spread = np.zeros(20 * up)
    spread[::up] = x
    spread = np.concatenate([np.zeros(max(shift, 0)), spread[max(-shift, 0) :]])
    wanted = np.convolve(spread, taps, "valid")[::down]
    made = band_matrix(torch.from_numpy(taps), len(wanted), 20, down, up, shift) @ torch.from_numpy(x)
    np.testing.assert_allclose(made, wanted, atol=1e-12)


def rectified(resampler, sampling, radial, clamp, count=2, channels=3, seed=0):
    """Return ours and the plain one's values and gradients of all inputs."""
    torch.manual_seed(seed)
    up_taps = lowpass_filter(sampling.up_taps, 2, 6, 32).double()
    down_taps = lowpass_filter(sampling.down_taps, 4, 4, 32, radial).double()
    size = sampling.size_in
    inputs = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((count, channels, size, size), (count, channels), (channels,))
    ]
    x, scale, bias = inputs
    ours = filtered_lrelu(*inputs, resampler(sampling, up_taps, down_taps, torch.float64), clamp)
    scaled = x * scale[:, :, None, None] + bias[:, None, None]
    wanted = plain.filtered_lrelu(scaled, up_taps, down_taps, sampling.up, sampling.down, sampling.padding, clamp)
    direction = torch.randn_like(wanted)
    return [(y, *torch.autograd.grad(y, inputs, direction)) for y in (ours, wanted)]


@pytest.mark.parametrize(("radial", "clamp"), [(False, None), (False, 0.6), (True, 0.6)])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("resampler", RESAMPLERS)
def test_the_rectifier_is_the_plain_one_and_so_are_its_gradients(resampler, sampling, radial, clamp):
    ours, wanted = rectified(resampler, sampling, radial, clamp)
    assert ours[0].shape[2:] == (sampling.size_out,) * 2
    for one, other in zip(ours, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6 if radial else 1e-10)


@pytest.mark.parametrize("resampler", RESAMPLERS)
def test_planes_are_done_some_at_a_time(resampler, monkeypatch):
    monkeypatch.setattr(stylegan_resampling, "CPU_PLANES", 2)
    monkeypatch.setattr(stylegan_resampling, "CPU_VALUES", 5 * 56**2)
    monkeypatch.setattr(stylegan_resampling, "GPU_VALUES", 4 * 56**2)
    sampling = Sampling(18, 23, 4, 2, 24, 12)
    assert resampler(sampling, torch.ones(24), torch.ones(12), torch.float32).planes() == 4
    ours, wanted = rectified(resampler, sampling, False, 0.6)
    for one, other in zip(ours, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def small():
    """Return the inputs of a rectifier whose derivatives finite differences can tell, and it as a function of them."""
    torch.manual_seed(1)
    sampling = Sampling(6, 5, 2, 2, 12, 12)
    resampler = ConvolutionResampler(
        sampling, lowpass_filter(12, 2, 6, 32).double(), lowpass_filter(12, 4, 4, 32, True).double(), torch.float64
    )
    shapes = ((2, 2, 6, 6), (2, 2), (2,))
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    return inputs, lambda *given: filtered_lrelu(*given, resampler, 1.0)


def test_first_and_second_derivatives_are_those_of_finite_differences():
    inputs, function = small()
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_a_third_derivative_is_refused_instead_of_being_wrong():
    (x, scale, bias), function = small()
    (first,) = torch.autograd.grad(function(x, scale, bias).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        second.sum().backward()


def test_only_the_inputs_are_kept():
    kept = []
    inputs, function = small()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        function(*inputs)
    assert {tensor.data_ptr() for tensor in kept} == {tensor.data_ptr() for tensor in inputs}
