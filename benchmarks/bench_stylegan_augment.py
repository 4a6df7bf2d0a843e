"""Augmentation of the discriminator's images, against one operation for each transformation.

Plain: each geometric transformation is a warp of its own (filter up, sample, filter down, by convolutions) and each
colour transformation an operation of its own, the same amounts for both ways. In between: transformations composed as
ours are, filters by convolution. Forward and backward, on the GPU if there is one.

    python benchmarks/bench_stylegan_augment.py [--resolution R] [--images N]

Claims: at least 4x the plain way where all transformations fire.
"""

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "stylegan3")]

import click
import torch
import torch.nn.functional as F

from stylegan_augment import draw_color, draw_geometry, inverse_affine, moved, recolored
from stylegan_warp import SYM6, sampling_grid

REPEATS = 5
Images = torch.Tensor


def filtered_up(images: Images) -> Images:
    """Return `images` (N, C, R, R) at twice the resolution less one pixel, by two transposed convolutions."""
    count, channels, size, _ = images.shape
    taps = torch.tensor(SYM6, device=images.device) * math.sqrt(2)
    flat = F.pad(images, (6, 6, 6, 6), mode="reflect").flatten(0, 1)[:, None]
    wide = F.conv_transpose2d(flat, taps.view(1, 1, 1, 12), stride=(1, 2))
    double = F.conv_transpose2d(wide, taps.view(1, 1, 12, 1), stride=(2, 1))
    start, side = 2 * 6 + 5, 2 * size - 1
    return double[:, 0, start : start + side, start : start + side].unflatten(0, (count, channels))


def filtered_down(images: Images) -> Images:
    """Return `images` (N, C, 2 R + 10, 2 R + 10) at half the resolution, by two convolutions."""
    taps = torch.tensor(SYM6, device=images.device) / math.sqrt(2)
    flat = F.conv2d(images.flatten(0, 1)[:, None], taps.view(1, 1, 1, 12), stride=(1, 2))
    return F.conv2d(flat, taps.view(1, 1, 12, 1), stride=(2, 1))[:, 0].unflatten(0, images.shape[:2])


def warped_by_filters(images: Images, inverse: torch.Tensor) -> Images:
    """Return what `stylegan_warp.warped` returns, filtering by convolutions."""
    grid = sampling_grid(inverse, images.shape[-1])
    samples = F.grid_sample(filtered_up(images), grid, padding_mode="reflection", align_corners=True)
    return filtered_down(samples)


def composed(images: Images, geometry: torch.Tensor, color: torch.Tensor) -> Images:
    """Return `images` after one warp with filters by convolution and one colour matrix."""
    return recolored(warped_by_filters(images, inverse_affine(geometry)), color)


def plain(images: Images, geometry: torch.Tensor, color: torch.Tensor) -> Images:
    """Return `images` after one operation for each transformation."""
    size = images.shape[-1]
    each = torch.eye(10, device=images.device)
    events = [each[i] for i in range(10)]
    mirror, quarters, shift_x, shift_y = (geometry[:, i, None, None, None] for i in range(4))
    images = torch.where(mirror > 0, images.flip(3), images)
    turned = torch.stack([images.rot90(-turns, (2, 3)) for turns in range(4)])
    images = turned[quarters.flatten().long(), torch.arange(len(images), device=images.device)]
    for shift, axis in ((shift_x, 3), (shift_y, 2)):
        place = (torch.arange(size, device=images.device) - shift.flatten()[:, None]).abs().long()
        place = (size - 1 - (size - 1 - place).abs()).view(len(images), *((1, 1, size) if axis == 3 else (1, size, 1)))
        images = images.gather(axis, place.expand_as(images))
    for event in (*events[4:8], events[8] + events[9]):
        images = warped_by_filters(images, inverse_affine(geometry * event))
    for i in range(5):
        images = recolored(images, color * each[i, :5])
    return images


def ours(images: Images, geometry: torch.Tensor, color: torch.Tensor) -> Images:
    """Return `images` as the pipe has them."""
    return recolored(moved(images, geometry), color)


def seconds(way: Callable[..., Images], images: Images, geometry: torch.Tensor, color: torch.Tensor) -> float:
    """Return the least seconds of a forward and backward pass."""
    took = []
    for _ in range(REPEATS + 1):
        images = images.detach().requires_grad_()
        start = time.perf_counter()
        way(images, geometry, color).square().sum().backward()
        if images.is_cuda:
            torch.cuda.synchronize()
        took.append(time.perf_counter() - start)
    return min(took[1:])


def check_same(images: Images, geometry: torch.Tensor, color: torch.Tensor) -> None:
    """Assert that filtering by convolution gives what filtering by a product gives."""
    difference = (composed(images, geometry, color) - ours(images, geometry, color)).abs().max()
    assert difference < 1e-2 * images.abs().max(), f"the ways differ by {difference}"


@click.command()
@click.option("--resolution", default=256, show_default=True, help="Pixels a side.")
@click.option("--images", default=16, show_default=True, help="Images of a batch.")
def main(resolution: int, images: int) -> None:
    """Print milliseconds an image of each way, and what ours is quicker by."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    threads = f" with {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    batch = torch.rand(images, 3, resolution, resolution, device=device) * 2 - 1
    print(f"{images} images of {resolution} x {resolution}, forward and backward, on {device.type}{threads}")
    for p in (1.0, 0.2):
        rate = torch.tensor(p, device=device)
        amounts = draw_geometry(images, resolution, rate, rate), draw_color(images, rate)
        if p == 1:
            check_same(batch, *amounts)
        took = {way.__name__: seconds(way, batch, *amounts) * 1000 / images for way in (plain, composed, ours)}
        told = "   ".join(f"{name} {value:.2f} ms" for name, value in took.items())
        ratios = (
            f"{took['plain'] / took['ours']:.1f}x the plain way, {took['composed'] / took['ours']:.1f}x convolutions"
        )
        print(f"p = {p}: {told} an image; ours is {ratios}")


if __name__ == "__main__":
    main()
