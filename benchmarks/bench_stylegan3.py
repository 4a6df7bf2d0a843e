"""StyleGAN3's rectifier between filters: a few planes at a time and made again, against operations under autograd.

Ours goes up and down by convolutions or by products with banded matrices; both are timed on every device. The plain
way has the same depthwise convolutions, of all planes at once, and each operation is recorded by autograd. Values and
gradients are compared before anything is timed. Then a generator's forward and backward pass, ours and plain.

    python benchmarks/bench_stylegan3.py [--resolution R --cbase N --batch N] [--device cuda]

Claim: on a CPU a generator keeps at most a fifth of the plain way's bytes, and takes no more time.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "stylegan3")]

import click
import torch
import torch.nn.functional as F

import stylegan3_networks
from stylegan_filtered_lrelu import GAIN, SLOPE, filtered_lrelu
from stylegan_filters import lowpass_filter
from stylegan_heap import keep_freed_memory
from stylegan_networks import build_generator
from stylegan_resampling import ConvolutionResampler, MatrixResampler, Resampler, Sampling

LAYERS = {
    "36 to 36": Sampling(38, 36, 2, 2, 12, 12),
    "52 to 84": Sampling(54, 84, 4, 2, 24, 12),
    "84 to 84": Sampling(86, 84, 2, 2, 12, 12),
    "276 to 276": Sampling(278, 276, 2, 2, 12, 12),
}
CHANNELS = 64


UP_TAPS = {12: lowpass_filter(12, 2, 6, 32), 24: lowpass_filter(24, 4, 4, 64)}
DOWN_TAPS = {radial: lowpass_filter(12, 4, 4, 32, radial) for radial in (False, True)}


def plain(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, resampler: Resampler, clamp: float | None) -> Any:
    """Return what filtered_lrelu does, operation by operation."""
    sampling = resampler.sampling
    radial = resampler.terms > 1 if isinstance(resampler, MatrixResampler) else len(resampler.downs) == 1
    filters = UP_TAPS[sampling.up_taps].to(x.device), DOWN_TAPS[radial].to(x.device)
    whole = ConvolutionResampler(sampling, *filters, x.dtype)
    z = whole.up((x * scale[:, :, None, None] + bias[:, None, None]).flatten(0, 1))
    z = F.leaky_relu(z, SLOPE) * GAIN
    z = z if clamp is None else z.clamp(-clamp, clamp)
    return whole.down(z).unflatten(0, x.shape[:2])


def seconds(work: Callable[[], Any], device: str, repeats: int = 5) -> float:
    """Return the least time that `work` took: of the processor on a CPU, where others may be running."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    best = float("inf")
    for _ in range(repeats + 1):
        start = clock()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, clock() - start)
    return best


def kept_bytes(work: Callable[[], Any]) -> int:
    """Return the bytes that `work` keeps for its backward pass."""
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = work()
    del result
    return sum(kept.values())


def passes(function: Any, *inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the values of `function` and a gradient of its first input."""
    y = function(*inputs, 256)
    return y, torch.autograd.grad(y, inputs[0], torch.ones_like(y))[0]


def compare_layers(device: str, dtype: torch.dtype) -> None:
    """Print the times of single layers, forward and backward, ours and plain."""
    tolerance = 1e-3 if dtype == torch.float32 else 5e-2
    for radial, (name, sampling) in product((False, True), LAYERS.items()):
        size = sampling.size_in
        x = torch.randn(1, CHANNELS, size, size, device=device, dtype=dtype, requires_grad=True)
        scale, bias = torch.ones(1, CHANNELS).to(x), torch.zeros(CHANNELS).to(x)
        filters = UP_TAPS[sampling.up_taps].to(device), DOWN_TAPS[radial].to(device)
        ways = [kind(sampling, *filters, dtype) for kind in (ConvolutionResampler, MatrixResampler)]
        outputs, times = [], []
        for function, way in ((filtered_lrelu, ways[0]), (filtered_lrelu, ways[1]), (plain, ways[0])):
            work = partial(passes, function, x, scale, bias, way)
            outputs.append(work())
            times.append(1000 * seconds(work, device) / CHANNELS)
        for ours in outputs[:2]:
            for one, other in zip(ours, outputs[2], strict=True):
                assert (one - other).norm() < tolerance * other.norm()  # rounding tips a few values over the bend
        print(
            f"{'radial' if radial else 'separable'} {name}:".ljust(24),
            "convolutions {:.3f}, matrices {:.3f}, plain {:.3f} ms a channel".format(*times),
        )


def step(G: torch.nn.Module, z: torch.Tensor) -> None:
    """Pass forward and backward."""
    G(z).square().mean().backward()


def compare_generators(resolution: int, cbase: int, batch: int, device: str) -> None:
    """Print the times and the bytes kept of a generator's forward and backward pass, ours and plain."""
    for kind in ("stylegan3-t", "stylegan3-r"):
        config = {"kind": kind, "z_dim": 512, "c_dim": 0, "w_dim": 512, "resolution": resolution, "channels": 3}
        config |= {"channel_base": cbase, "channel_max": 512, "map_depth": 2, "num_fp16_res": 4, "conv_clamp": 256}
        torch.manual_seed(0)
        G = build_generator(config).to(device)
        z = torch.randn(batch, 512, device=device)

        results = []
        for function in (filtered_lrelu, plain):
            with patch.object(stylegan3_networks, "filtered_lrelu", function):
                results.append((seconds(partial(step, G, z), device, 2), kept_bytes(partial(G, z))))
        (own, kept), (other, other_kept) = results
        print(
            f"{kind} {resolution} px cbase {cbase}, a forward and backward pass: ours {own / batch:.3f}, plain"
            f" {other / batch:.3f} s an image ({other / own:.2f}x); kept {kept / batch / 2**20:.0f} and"
            f" {other_kept / batch / 2**20:.0f} MiB an image ({other_kept / kept:.1f}x)"
        )


@click.command(help=__doc__.split("\n\n")[0])
@click.option("--resolution", default=64, show_default=True)
@click.option("--cbase", default=4096, show_default=True)
@click.option("--batch", default=4, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
def main(resolution: int, cbase: int, batch: int, device: str) -> None:
    """Compare."""
    keep_freed_memory()
    if device == "cuda":
        compare_layers(device, torch.float16)
    else:
        torch.set_num_threads(1)
        compare_layers(device, torch.float32)
    compare_generators(resolution, cbase, batch, device)


if __name__ == "__main__":
    main()
