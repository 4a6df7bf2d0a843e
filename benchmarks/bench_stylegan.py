"""StyleGAN2's training step: ours against the straightforward formulation, in the same run and with the same weights.

Straightforward (`tests/plain_stylegan.py`): each image's modulated weights as groups of one convolution; filter, noise,
bias, leaky ReLU, gain and clamp as operations of their own; contiguous float32; ADA as one operation for each
transformation (`bench_stylegan_augment.py`). Both are given the same weights, and their gradients are compared before
anything is timed. A step is Gmain and Dmain, a quarter of Greg and a sixteenth of Dreg; optimizers are left out. FLOPs
of convolutions and products, bytes that operations read and write, and bytes that are kept for the backward pass are
counted. The floor is the FLOPs at the speed of the fastest large matrix product or convolution measured in the run.

    python benchmarks/bench_stylegan.py [--resolution R --cbase N --batch N] [--compile]

Claim: on a CPU at least 1.5 times the straightforward formulation; on a GPU seconds per 1000 images and peak memory.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "stylegan3"), str(ROOT / "tests")]

import click
import plain_stylegan as plain
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks import bench_stylegan_augment
from stylegan_augment import AugmentPipe, draw_color, draw_geometry
from stylegan_heap import keep_freed_memory
from stylegan_loss import Losses, draw_latents, training
from stylegan_networks import build_discriminator, build_generator

SHARES = {"Gmain": 1.0, "Greg": 1 / 4, "Dmain": 1.0, "Dreg": 1 / 16}
"""How often a step has each phase."""
CPU_SIZES = ((64, 4096, 8), (256, 16384, 2))
GPU_SIZES = ((256, 16384, 32),)
"""Resolution, --cbase and images at once of what is measured."""
AUGMENT_P = 0.3

Phases = dict[str, Callable[[], None]]


class PlainGenerator:
    """The straightforward generator with the weights of ours."""

    def __init__(self, G: Any):
        self.G, self.z_dim, self.num_ws = G, G.z_dim, G.num_ws

    def tensors(self) -> plain.Tensors:
        """Return its tensors by name."""
        return dict(self.G.named_parameters()) | dict(self.G.named_buffers())

    def mapping(self, z: torch.Tensor, c: torch.Tensor | None, update_averages: bool = False) -> torch.Tensor:
        """Return ws."""
        return plain.mapped(self.tensors(), z, c)[:, None].repeat(1, self.num_ws, 1)

    def synthesis(self, ws: torch.Tensor, noise_mode: str = "random", update_averages: bool = False) -> torch.Tensor:
        """Return images."""
        return plain.synthesised(self.tensors(), ws, noise_mode)


class PlainDiscriminator:
    """The straightforward discriminator with the weights of ours."""

    def __init__(self, D: Any):
        self.D = D

    def __call__(self, images: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        """Return logits."""
        tensors = dict(self.D.named_parameters()) | dict(self.D.named_buffers())
        return plain.judged(tensors, images, c, min(self.D.b4.mbstd_group, len(images)))


def plain_augment(images: torch.Tensor) -> torch.Tensor:
    """Return `images` after one operation for each transformation."""
    rate = torch.tensor(AUGMENT_P, device=images.device)
    amounts = draw_geometry(len(images), images.shape[-1], rate, rate), draw_color(len(images), rate)
    return bench_stylegan_augment.plain(images, *amounts)


class Counted(TorchDispatchMode):
    """Counts the FLOPs of convolutions and products, and the bytes that all operations read and write."""

    flops = touched = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **kwargs, out_val=found)
        if not func.is_view:
            tensors = [value for value in tree_leaves((args, kwargs, found)) if isinstance(value, torch.Tensor)]
            self.touched += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return found


class Kept:
    """Counts the bytes that graphs keep for their backward pass while entered, at most at once; weights not counted."""

    def __init__(self) -> None:
        self.users: dict[int, int] = {}  # by storage
        self.bytes = self.most = 0
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda holder: holder.tensor)

    def pack(self, tensor: torch.Tensor) -> "Holder":
        """Return what a graph keeps instead of `tensor`, which counts until it is let go."""
        return Holder(tensor, self)

    def count(self, tensor: torch.Tensor, change: int) -> None:
        """Count one graph's use of `tensor` more or less."""
        storage = tensor.untyped_storage()
        before = self.users.get(storage.data_ptr(), 0)
        self.users[storage.data_ptr()] = before + change
        if before == 0 or before + change == 0:
            self.bytes += change * storage.nbytes()
            self.most = max(self.most, self.bytes)


class Holder:
    """A tensor that a graph keeps."""

    def __init__(self, tensor: torch.Tensor, kept: Kept):
        self.tensor, self.kept = tensor, None if isinstance(tensor, torch.nn.Parameter) else kept
        if self.kept:
            self.kept.count(tensor, 1)

    def __del__(self) -> None:
        if self.kept:
            self.kept.count(self.tensor, -1)


def networks(resolution: int, cbase: int, device: torch.device) -> tuple[Any, Any]:
    """Return a generator and a discriminator without gradients."""
    torch.manual_seed(0)
    common = {"c_dim": 0, "resolution": resolution, "channels": 3, "channel_base": cbase, "channel_max": 512}
    common |= {"num_fp16_res": 4, "conv_clamp": 256}
    G = build_generator({"kind": "stylegan2", "z_dim": 512, "w_dim": 512, "map_depth": 8, **common})
    D = build_discriminator({"kind": "stylegan2-discriminator", "mbstd_group": 4, "freeze_layers": 0, **common})
    return G.to(device).requires_grad_(False), D.to(device).requires_grad_(False)


def phases_of(G: Any, D: Any, batch: int, ways: tuple[Any, Any, Any, Any, Any], noise_mode: str = "random") -> Phases:
    """Return the phases of a step on random numbers; `ways` are G, its synthesis, D, its logits and ADA."""
    device, nothing = next(G.parameters()).device, torch.zeros(2, dtype=torch.float64)
    signs, lengths = nothing.to(device), nothing.to(device)
    losses = Losses(
        *ways, lambda name, values: None, signs, lengths, r1_gamma=1.0, pl_weight=2.0, noise_mode=noise_mode
    )
    generator = torch.Generator(device).manual_seed(1)
    latents = draw_latents(G, batch, 0.9, generator)
    shape = batch, 3, G.resolution, G.resolution
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device, generator=generator)

    def phase(network: torch.nn.Module, accumulate: Callable[..., None], *arguments: Any) -> Callable[[], None]:
        def run() -> None:
            network.zero_grad(set_to_none=True)
            with training(network):
                accumulate(*arguments)

        return run

    return {
        "Gmain": phase(G, losses.generator_main, latents, 0.0, 1.0),
        "Greg": phase(G, losses.generator_paths, latents, torch.zeros((), device=device), 1.0),
        "Dmain": phase(D, losses.discriminator_main, latents, pixels, None, 0.0, 1.0),
        "Dreg": phase(D, losses.discriminator_r1, pixels, None, 0.0, 1.0),
    }


def check_same(G: Any, D: Any, batch: int) -> None:
    """Assert that both ways accumulate the same gradients, without what is random."""
    g, d = PlainGenerator(G), PlainDiscriminator(D)
    ours = phases_of(G, D, batch, (G, G.synthesis, D, D, None), "const")
    straight = phases_of(G, D, batch, (g, g.synthesis, d, d, None), "const")
    for name in SHARES:
        network, found = (G if name[0] == "G" else D), []
        for way in (ours, straight):
            torch.manual_seed(0)
            way[name]()
            none = torch.zeros((), device=next(network.parameters()).device)
            found.append([none if p.grad is None else p.grad.clone() for p in network.parameters()])
        scale = max(gradient.abs().max().item() for gradient in found[1])
        error = max((a - b).abs().max().item() for a, b in zip(*found, strict=True)) / scale
        assert error < (0.1 if torch.cuda.is_available() else 1e-3), f"{name}: gradients differ by {error}"
        print(f"{name}: largest difference of a gradient {error:.0e} of the largest gradient")


def least_seconds(run: Callable[[], Any], repeats: int, clock: Callable[[], float]) -> float:
    """Return the least seconds of `repeats` runs."""
    took = []
    for _ in range(repeats):
        start = clock()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        took.append(clock() - start)
    return min(took)


def fastest(device: torch.device, clock: Callable[[], float]) -> float:
    """Return the FLOP/s of the fastest of a large matrix product and a large convolution, in what ours computes in."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    size, batch = (8192, 64) if device.type == "cuda" else (2048, 2)
    one = torch.randn(size, size, device=device, dtype=dtype)
    images = torch.randn(batch, 256, 64, 64, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    product = 2 * size**3 / least_seconds(lambda: one @ one, 3, clock)
    flops = 2 * images.numel() * 256 * 9
    return max(product, flops / least_seconds(lambda: F.conv2d(images, weight, padding=1), 3, clock))


def told(
    name: str, phases: Phases, batch: int, repeats: int, clock: Callable[[], float], peak: float | None = None
) -> float:
    """Print what each of `phases` takes, with FLOPs if there is a `peak`, and return the seconds of a step."""
    gpu = torch.cuda.is_available()
    step = flops = 0.0
    for phase, run in phases.items():
        kept = Kept()
        with Counted() as counted, kept.hooks:
            run()
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        seconds = least_seconds(run, repeats, clock)
        step, flops = step + SHARES[phase] * seconds, flops + SHARES[phase] * counted.flops
        line = f"  {name:24} {phase:5} {seconds * 1000 / batch:8.1f} ms an image"
        line += f", {counted.touched / batch / 1e9:5.2f} GB touched, {kept.most / batch / 2**20:6.1f} MiB kept"
        if peak:
            line += f", {counted.flops / batch / 1e9:6.1f} GFLOP, {counted.flops / seconds / peak:.2f} of the peak"
        print(line + (f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at most" if gpu else ""), flush=True)
    line = f"  {name:24} step  {step * 1000 / batch:8.1f} ms an image = {step / batch * 1000:.1f} s a kimg"
    line += f", {flops / batch / 1e9:.0f} GFLOP, {step * peak / flops:.2f} times the floor" if peak else ""
    print(line, flush=True)
    return step


@click.command()
@click.option("--resolution", type=int, help="Pixels a side. [default: 64 and 256 on a CPU, 256 on a GPU]")
@click.option("--cbase", type=int, help="As of train.py. [default: 4096 and 16384 on a CPU, 16384 on a GPU]")
@click.option("--batch", type=int, help="Images at once. [default: 8 and 2 on a CPU, 32 on a GPU]")
@click.option("--repeats", default=2, show_default=True, help="Of which the quickest counts.")
@click.option("--compile", "compiled", is_flag=True, help="Also with the main phases compiled.")
@click.option("--processor-time", is_flag=True, help="Count this process's own seconds: for one thread on a busy CPU.")
def main(
    resolution: int | None, cbase: int | None, batch: int | None, repeats: int, compiled: bool, processor_time: bool
) -> None:
    """Print what a step takes either way."""
    gpu = torch.cuda.is_available()
    device, clock = torch.device("cuda" if gpu else "cpu"), time.process_time if processor_time else time.perf_counter
    torch.backends.cudnn.benchmark = True
    torch.set_flush_denormal(True)
    sizes = GPU_SIZES if gpu else CPU_SIZES
    if resolution or cbase or batch:
        sizes = ((resolution or sizes[0][0], cbase or sizes[0][1], batch or sizes[0][2]),)
    peak = fastest(device, clock)
    where = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}: at most {peak / 1e9:.0f} GFLOP/s in large products and convolutions")
    measured = []
    for size, base, count in sizes:
        G, D = networks(size, base, device)
        print(f"{size} px, --cbase {base}, {count} images at once")
        check_same(G, D, count)
        g, d = PlainGenerator(G), PlainDiscriminator(D)
        straight = phases_of(G, D, count, (g, g.synthesis, d, d, plain_augment))
        pipe = AugmentPipe(p=AUGMENT_P).to(device)
        ours = phases_of(G, D, count, (G, G.synthesis, D, D, pipe))
        measured.append((G, D, count, pipe, ours, told("straightforward", straight, count, repeats, clock)))
        if not gpu:
            told("ours", ours, count, repeats, clock, peak)
    if not gpu:
        keep_freed_memory()  # after what is measured without
    for G, D, count, pipe, ours, before in measured:
        name = "ours" if gpu else "ours, freed memory kept"
        after = told(name, ours, count, repeats, clock, peak)
        print(f"{G.resolution} px: {before / after:.2f} times the straightforward formulation")
        if compiled:
            synthesis, judge = torch.compile(G.synthesis, dynamic=False), torch.compile(D, dynamic=False)
            again = phases_of(G, D, count, (G, synthesis, D, judge, pipe))
            for phase in ("Gmain", "Dmain"):
                again[phase]()  # compiles
            after = told("compiled", again, count, repeats, clock, peak)
            print(f"{G.resolution} px, compiled: {before / after:.2f} times the straightforward formulation")


if __name__ == "__main__":
    main()
