"""From the pixels of one patch to its image and mask files."""

import io
from pathlib import Path

import numpy as np

from aras.errors import UserError
from aras.files import write_bytes
from aras.legend import NO_DATA, NUM_CLASSES, WATER, mask_image
from aras.splits import SPLITS

REFLECTANCE_MAX = 3000
"""Reflectance x 10^4 that becomes 255; why this much: docs/decisions/0003-stretch.md."""

PERCENTILES = (2.0, 98.0)


def linear_table(low: float, high: float) -> np.ndarray:
    """Return the table (65536,) uint8 that sends reflectance `low` to 0 and `high` to 255, rounded and clipped."""
    values = np.arange(1 << 16, dtype=np.float64)
    return np.clip(np.rint((values - low) / max(high - low, 1.0) * 255), 0, 255).astype(np.uint8)


def patch_max_stretch(pixels: np.ndarray) -> np.ndarray:
    """Return `pixels` (3, H, W) uint16 as the published script scales them: value / patch maximum x 255, cut to uint8.

    One bright roof darkens its whole patch; kept for comparison with the released images only.
    """
    values = pixels.astype(np.float64)
    return (values / values.max() * 255).astype(np.uint8)


def class_counts(labels: np.ndarray) -> np.ndarray:
    """Return the number of pixels of each class (7,) in `labels` (H, W) uint8 without `NO_DATA`."""
    return np.bincount(labels.ravel(), minlength=NUM_CLASSES)


def reason_to_skip(labels: np.ndarray, covered: np.ndarray, max_water: float) -> str | None:
    """Return why a patch is dropped for its `labels` (H, W): no map, no data or too much water; None when it is not."""
    if not covered.any():
        return "no_map"
    if (labels == NO_DATA).any():
        return "nodata"
    if np.count_nonzero(labels == WATER) > max_water * labels.size:
        return "water"
    return None


def png_of_image(pixels: np.ndarray) -> bytes:
    """Return the PNG of `pixels` (3, H, W) uint8 red, green, blue.

    Pixels become differences from the Paeth predictor, coded by Huffman alone: in satellite images, the search
    for repeats finds noise. Measured in benchmarks/bench_png.py: a tenth of the time of Pillow's default, and smaller.
    """
    import cv2

    options = [
        *(cv2.IMWRITE_PNG_COMPRESSION, 1),
        *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY),
        *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_PAETH),
    ]
    done, content = cv2.imencode(".png", cv2.merge(list(pixels[::-1])), options)
    if not done:
        raise UserError("OpenCV could not encode a PNG; reinstall opencv-python-headless")
    return content.tobytes()


def png_of_mask(labels: np.ndarray) -> bytes:
    """Return the palette PNG of `labels` (H, W) uint8; run lengths (zlib's Z_RLE) suit flat areas best."""
    buffer = io.BytesIO()
    z_rle = 3
    mask_image(labels).save(buffer, "PNG", compress_type=z_rle)
    return buffer.getvalue()


def write_patch(folder: Path, name: str, pixels: np.ndarray, labels: np.ndarray) -> None:
    """Write the pair `images/<name>.png` and `masks/<name>.png` below `folder`, a split's folder."""
    for kind, content in (("images", png_of_image(pixels)), ("masks", png_of_mask(labels))):
        write_bytes(folder / kind / f"{name}.png", content, durable=False, alone=False)


def remove_patch(output: Path, name: str) -> None:
    """Delete the pair `name` from whichever split of the dataset at `output` it is in."""
    for split in SPLITS:
        for kind in ("images", "masks"):
            (output / split / kind / f"{name}.png").unlink(missing_ok=True)
