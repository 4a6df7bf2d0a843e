"""Grids of real and generated images, the first thing one looks at."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from stylegan_files import whole_file

SHEET = (7680, 4320)  # px, which a grid of the largest size fills
FEWEST, MOST = (7, 4), (32, 32)  # columns and rows
GRID_BATCH = 16  # images made at once
ON_A_CPU = (8, 8)  # images take it too long to fill a sheet


def grid_size(resolution: int, on_cpu: bool) -> tuple[int, int]:
    """Return the columns and rows of a grid of images of `resolution` px: what fills 8K, within reason."""
    columns, rows = (
        min(max(sheet // resolution, least), most) for sheet, least, most in zip(SHEET, FEWEST, MOST, strict=True)
    )
    return (min(columns, ON_A_CPU[0]), min(rows, ON_A_CPU[1])) if on_cpu else (columns, rows)


def choose_reals(labels: np.ndarray, count: int, columns: int, rows: int) -> list[int]:
    """Return the indices of the real images of a grid, in reading order; with labels, each row is of one label.

    They are always the same ones of a dataset, so that the grids of two runs can be compared.

    Args:
        labels: (N, K) float32 of the N images, each of which may count several times; K may be 0.
        count: how many indices there are, a multiple of N; index i is image i mod N.
        columns: of the grid.
        rows: of the grid.
    """
    order = np.random.RandomState(0).permutation(count)
    if not labels.shape[1]:
        return [int(order[place % count]) for place in range(columns * rows)]
    groups: dict[tuple[float, ...], list[int]] = {}
    for index in order:
        groups.setdefault(tuple(labels[index % len(labels)].tolist()), []).append(int(index))
    members = [own for _, own in sorted(groups.items())]
    chosen = (members[row % len(members)] for row in range(rows))
    return [own[column % len(own)] for own in chosen for column in range(columns)]


def sheet_of(images: np.ndarray, columns: int) -> np.ndarray:
    """Return one image (H, W, channels) uint8 of the `images` (N, channels, R, R) uint8, in reading order."""
    count, channels, height, width = images.shape
    rows = count // columns
    tiled = images[: rows * columns].reshape(rows, columns, channels, height, width)
    return tiled.transpose(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels)


def save_grid(path: Path, images: np.ndarray, columns: int) -> None:
    """Write `images` (N, 3 or 1, R, R) uint8 as one PNG to `path`, wholly or not at all."""
    sheet = sheet_of(images, columns)
    with whole_file(path) as part:
        Image.fromarray(sheet[:, :, 0] if sheet.shape[2] == 1 else sheet).save(part, format="PNG")


@torch.no_grad()
def generated(G: torch.nn.Module, z: torch.Tensor, c: torch.Tensor | None, batch: int) -> np.ndarray:
    """Return the images (N, channels, R, R) uint8 that `G` makes of `z` (N, z_dim) and `c`, with constant noise."""
    done = []
    for start in range(0, len(z), batch):
        part = slice(start, start + batch)
        images = G(z[part], None if c is None else c[part], noise_mode="const")
        done.append((images * 127.5 + 128).clamp(0, 255).to(torch.uint8).cpu())
    return torch.cat(done).numpy()
