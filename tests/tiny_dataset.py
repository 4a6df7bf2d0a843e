"""A tiny learnable dataset: each class has its legend colour, with noise. Written in the layout of ARAS400k."""

from pathlib import Path

import numpy as np
from PIL import Image

from aras.legend import COLORS, NUM_CLASSES, mask_image


def write_pair(folder: Path, name: str, size: tuple[int, int], rng: np.random.Generator, classes: int, rgb: bool):
    """Write `images/<name>.png` and `masks/<name>.png` of (height, width) `size` below `folder`."""
    coarse = rng.integers(0, classes, (4, 4))
    rows, cols = (np.arange(side) * 4 // side for side in size)
    labels = coarse[np.ix_(rows, cols)].astype(np.uint8)  # (H, W)
    image = np.clip(COLORS[labels] + rng.normal(0, 40, (*size, 3)), 0, 255).astype(np.uint8)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / "images" / f"{name}.png")
    mask = mask_image(labels)
    (mask.convert("RGB") if rgb else mask).save(folder / "masks" / f"{name}.png")


def make_dataset(data: Path, size=(32, 32), classes=NUM_CLASSES, rgb=False, seed=0, **counts: int) -> Path:
    """Write `counts` pairs of each split, such as `train=8`, below `data`, and return it."""
    rng = np.random.default_rng(seed)
    for split, count in counts.items():
        for i in range(count):
            write_pair(data / split, f"N41E031_{i // 10:03d}_{i % 10:03d}", size, rng, classes, rgb)
    return data
