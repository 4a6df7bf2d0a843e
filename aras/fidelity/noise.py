"""Images of uniform noise: the mark at the far end, so that a distance is seen beside one that is surely bad."""

from pathlib import Path

import numpy as np

from aras.fidelity.sets import Size
from aras.files import write_bytes
from aras.pairs import SUFFIX
from aras.patches import png_of_image

NOISE = "noise"
"""The name of the set, and of its folder among results."""


def noise_folder(outdir: Path, size: Size, seed: int) -> Path:
    """Return where noise of (height, width) `size` and `seed` lies."""
    return outdir / NOISE / f"{size[1]}x{size[0]}_seed{seed}" / "images"


def noise_names(count: int) -> np.ndarray:
    """Return the names of so many images of noise, (N,) str."""
    return np.array([f"{index:06d}" for index in range(count)])


def write_noise(folder: Path, names: np.ndarray, size: Size, seed: int) -> None:
    """Write those images `names` of (height, width) `size` that `folder` lacks; every level is as likely as another."""
    from tqdm import tqdm

    there = {path.stem for path in folder.glob("*" + SUFFIX)}
    for index, name in enumerate(tqdm(names.tolist(), desc="noise", disable=None, leave=False)):
        if name not in there:
            pixels = np.random.default_rng([seed, index]).integers(0, 256, (3, *size), np.uint8)
            write_bytes(folder / f"{name}{SUFFIX}", png_of_image(pixels), durable=False)
