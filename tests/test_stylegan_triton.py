"""Triton kernels against PyTorch's own operations: by the interpreter on a CPU, and on a GPU where there is one."""

import importlib.util
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
SHAPES = ((2, 3, 6, 4), (1, 1, 1, 1), (2, 160, 9, 7))
HOWS = ((0.2, 2**0.5, 0.9), (0.2, 1.0, None), (1.0, 1.0, 256.0))
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def inputs(shape, layout, dtype, device, scaled, noisy, biased):
    """Return x and what `activation` adds and multiplies, of which some may be missing."""
    generator = torch.Generator().manual_seed(0)
    count, channels, height, width = shape

    def drawn(*size):
        return torch.randn(size, generator=generator).to(device)

    x = drawn(*shape).to(dtype).contiguous(memory_format=layout)
    scale = drawn(count, channels).abs() + 0.5 if scaled else None
    noise = drawn(count if noisy == "each" else 1, 1, height, width) if noisy else None
    strength = torch.tensor(0.7, device=device) if noisy else None
    return x, scale, noise, strength, drawn(channels) if biased else None


def check_activations(device):
    """Compare outputs and all gradients."""
    import stylegan_ops
    import stylegan_triton

    layouts = torch.contiguous_format, torch.channels_last
    parts = (True, "each", True), (True, "one", False), (False, None, True), (False, None, False)
    cases = list(itertools.product(SHAPES, layouts, TOLERANCE, HOWS, parts))
    if device == "cpu":  # the interpreter is slow: each thing in turn, and many channels only where they are neighbours
        turns = zip(range(12), itertools.cycle(HOWS), itertools.cycle(parts), strict=False)
        cases = [
            (SHAPES[i % 4 == 3], layouts[i % 2], list(TOLERANCE)[i // 2 % 3], how, given) for i, how, given in turns
        ]
        cases.append((SHAPES[2], torch.channels_last, torch.float16, HOWS[0], parts[0]))
    for shape, layout, dtype, how, given in cases:
        x, *rest = inputs(shape, layout, dtype, device, *given)
        expected, found = stylegan_ops.activated(x.float(), *rest, how), x.clone(memory_format=torch.preserve_format)
        stylegan_triton.activation(found, *rest, how)
        near = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
        torch.testing.assert_close(found.float(), expected, **near)
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device, dtype)
        needed = (True, given[0], False, bool(given[1]), given[2], False)
        expected = stylegan_ops.activation_gradients(gradient.float(), found.float(), *rest, how, needed)
        gradients = stylegan_triton.activation_gradients(gradient, found, *rest, how, needed)
        for one, other in zip(gradients, expected, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one.float(), other, **near)


def check_resampling(device):
    """Compare both directions of every resampling there is."""
    import stylegan_ops
    import stylegan_triton

    taps = torch.randn(4, 4, generator=torch.Generator().manual_seed(2)).to(device)
    ways = [(stride, padding, way) for stride, padding in ((1, 1), (1, 2), (2, 1)) for way in (False, True)]
    layouts = torch.contiguous_format, torch.channels_last
    cases = zip(itertools.product(layouts, ways), itertools.cycle(TOLERANCE), strict=False)
    for (layout, (stride, padding, transposed)), dtype in cases:
        x = torch.randn(2, 2, 6, 4, generator=torch.Generator().manual_seed(0)).to(device, dtype)
        x = x.contiguous(memory_format=layout)
        found = stylegan_triton.resample(x, taps, stride, padding, transposed)
        expected = stylegan_ops.convolved(x.float(), taps, stride, padding, transposed)
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
@pytest.mark.slow
def test_kernels_in_the_interpreter():
    paths = os.pathsep.join(str(path) for path in (ROOT / "stylegan3", ROOT / "tests"))
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    code = "import test_stylegan_triton as t; t.check_activations('cpu'); t.check_resampling('cpu')"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("check", [check_activations, check_resampling])
def test_kernels_on_a_gpu(check):
    check("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_networks_on_a_gpu_are_those_on_the_cpu():
    from test_stylegan_networks import TINY, discriminator, generator

    torch.manual_seed(0)
    G, D = generator(**TINY), discriminator(**TINY)
    ws = torch.randn(4, G.num_ws, 512)
    images = G.synthesis(ws, noise_mode="const")
    logits = D(images)
    G, D = G.cuda(), D.cuda()
    for force, near in ((True, 1e-3), (False, 5e-2)):
        found = G.synthesis(ws.cuda(), noise_mode="const", force_fp32=force)
        torch.testing.assert_close(found.cpu(), images, rtol=near, atol=near * images.abs().max().item())
        judged = D(found, force_fp32=force).cpu()
        torch.testing.assert_close(judged, logits, rtol=near, atol=near * logits.abs().max().item())
