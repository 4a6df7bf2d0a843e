"""A training step: ours against the published way in the same run, on the same drawn batch.

Published: float32 in rows of channels (NCHW), images normalised before, smp's Dice loss, the loss read after each step.
Ours: bytes normalised on the device, channels last, the precision of `--precision auto`, a fused optimiser on a GPU,
the loss read every 50th step. `--compile` adds torch.compile. The floor is three times our forward pass, as a backward
pass costs two.

    python benchmarks/bench_training_step.py [--encoder NAME] [--batch-size N] [--compile]

Claim: on a CPU not slower than the published way; on a GPU its gain and its peak memory are printed.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from aras.training import share_cores

share_cores()

import click
import torch

from aras.inference import PRECISIONS, logits_of, precision_of
from aras.segmentation.learning import CLIP_NORM
from aras.segmentation.losses import loss_named
from aras.segmentation.state import new_state
from aras.segmenter import build_model

PATCH = 256


def synchronise(device: torch.device) -> None:
    """Wait for the device to have done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rate(step: Callable[[], Any], steps: int, images: int, device: torch.device) -> tuple[float, float]:
    """Return the images a second of `steps` steps after three for warming up, and the peak memory in GiB on a GPU."""
    for _ in range(3):
        step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    synchronise(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    synchronise(device)
    took = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
    return steps * images / took, peak


def published(encoder: str, images: torch.Tensor, labels: torch.Tensor, device: torch.device) -> Callable[[], Any]:
    """Return the published training step."""
    import segmentation_models_pytorch as smp

    model = build_model("Segformer", encoder, "none").to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss_of = smp.losses.DiceLoss("multiclass", from_logits=True)
    batch = ((images.permute(0, 3, 1, 2).float() / 255 - 0.45) / 0.225).contiguous()
    truth = labels.long()

    def step() -> float:
        optimizer.zero_grad()
        loss = loss_of(model(batch.to(device)), truth.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


def ours(
    encoder: str,
    images: torch.Tensor,
    labels: torch.Tensor,
    device: torch.device,
    precision: torch.dtype,
    compiled: bool,
) -> Callable[[], Any]:
    """Return our training step, as `aras.segmentation.learning.train_steps` does it."""
    state = new_state(build_model("Segformer", encoder, "none"), 1e-3, 0.0, {}, device, precision)
    model: Any = torch.compile(state.model, dynamic=False) if compiled else state.model
    model.train()
    loss_of, parameters = loss_named("dice"), list(state.model.parameters())
    if device.type == "cuda":
        images, labels = images.pin_memory(), labels.pin_memory()

    def step() -> None:
        loss = loss_of(logits_of(model, images, device, precision), labels.to(device, non_blocking=True))
        state.optimizer.zero_grad()
        state.scaler.scale(loss).backward()
        state.scaler.unscale_(state.optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.loss_sum += loss.detach() * len(images)

    return step


def forward(encoder: str, images: torch.Tensor, device: torch.device, precision: torch.dtype) -> Callable[[], Any]:
    """Return a forward pass and nothing else."""
    model = build_model("Segformer", encoder, "none").to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    there = images.to(device)

    def step() -> None:
        with torch.inference_mode():
            logits_of(model, there, device, precision)

    return step


@click.command()
@click.option("--encoder", help="[default: efficientnet-b7 on a GPU, tu-tf_efficientnet_lite0 on a CPU]")
@click.option("--batch-size", type=int, help="[default: 24 on a GPU, 8 on a CPU]")
@click.option("--steps", type=int, help="[default: 50 on a GPU, 8 on a CPU]")
@click.option("--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True)
@click.option("--compile", "compiled", is_flag=True, help="Also measure torch.compile.")
def main(encoder: str | None, batch_size: int | None, steps: int | None, precision: str, compiled: bool) -> None:
    """Print images a second of each way."""
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    encoder = encoder or ("efficientnet-b7" if gpu else "tu-tf_efficientnet_lite0")
    count, steps = batch_size or (24 if gpu else 8), steps or (50 if gpu else 8)
    dtype = precision_of(precision, device)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, PATCH, PATCH, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 7, (count, PATCH, PATCH), dtype=torch.uint8, generator=generator)
    print(f"Segformer with {encoder}, {count} images of {PATCH} x {PATCH}, {device.type}, ours in {dtype}")
    plain, plain_peak = rate(published(encoder, images, labels, device), steps, count, device)
    least, _ = rate(forward(encoder, images, device, dtype), steps, count, device)
    print(f"published {plain:8.1f} images/s" + (f"   peak {plain_peak:.2f} GiB" if gpu else ""))
    for name, is_compiled in (("ours", False), ("compiled", True))[: 1 + compiled]:
        found, peak = rate(ours(encoder, images, labels, device, dtype, is_compiled), steps, count, device)
        told = f"{name:9} {found:8.1f} images/s   {found / plain:.2f}x the published way"
        print(f"{told}, {least / 3 / found:.2f} times the floor" + (f"   peak {peak:.2f} GiB" if gpu else ""))


if __name__ == "__main__":
    main()
