"""Features of images: what a trained encoder makes of each, pooled to one vector, extracted once and kept on disk."""

import hashlib
import json
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aras.errors import UserError
from aras.feature_maps.draws import ImageDraw
from aras.feature_maps.row_files import ROWS_AT_ONCE, TORN, begin_rows, end_rows, fill_rows, rows_file
from aras.inference import logits_of, padded_to_stride
from aras.pairs import told_size
from aras.segmenter import in_short

if TYPE_CHECKING:
    import torch


def pooled_features(encoder: "torch.nn.Module", images: "torch.Tensor", device: "torch.device") -> "torch.Tensor":
    """Return the mean over space of the last stage of `encoder`, (B, D) float32, for `images` (B, H, W, 3) uint8.

    Sides that are no multiple of the encoder's stride are continued by their edge. It computes in float32 on a GPU too:
    in bfloat16 the standardised features of the demo's images are off by 0.05 on average and by up to 0.6.
    """
    import torch

    pooled: Any = partial(_pooled, encoder)
    return logits_of(pooled, padded_to_stride(images), device, torch.float32)


def _pooled(encoder: "torch.nn.Module", batch: "torch.Tensor") -> "torch.Tensor":
    """Return the mean over space of the last stage for the normalised `batch` (B, 3, H, W), in float32."""
    stages = encoder(batch)
    if isinstance(stages, tuple):  # of a vision transformer: its stages, and its prefix tokens
        stages = stages[0]
    return stages[-1].float().mean(dim=(2, 3))


def refusal(encoder: "torch.nn.Module", size: tuple[int, int], device: "torch.device") -> str | None:
    """Return why `encoder` does not take images of (height, width) `size`, None if it does."""
    import torch

    try:
        pooled_features(encoder, torch.zeros((1, *size, 3), dtype=torch.uint8), device)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        return f"the encoder does not take images of {told_size(size)} pixels ({in_short(error)})"
    return None


def cache_key(weights_sha256: str, encoder: str, images: ImageDraw) -> str:
    """Return what tells these features from those of other weights or images."""
    return hashlib.sha256(json.dumps([weights_sha256, encoder, images.stamp]).encode()).hexdigest()


def is_cached(path: Path, key: str) -> bool:
    """Return whether the .npz at `path` holds the features that `key` stands for."""
    try:
        with np.load(path) as file:
            return str(file["key"]) == key
    except TORN:
        return False


def read_features(path: Path) -> np.ndarray:
    """Return the features (N, D) float32 in the .npz at `path`.

    Raises:
        UserError: it is torn.
    """
    try:
        with np.load(path) as file:
            return file["features"]
    except TORN as error:
        raise UserError(f"{path} is torn ({in_short(error)}); delete it, and they are extracted again") from None


def extract_features(
    images: ImageDraw,
    encoder: "torch.nn.Module",
    path: Path,
    key: str,
    batch_size: int,
    workers: int,
    device: "torch.device",
) -> dict[str, str]:
    """Have the .npz at `path` hold features, names and `key` of `images`; return why each failed, by name.

    It is written when none failed. The rows that a killed run wrote are not computed again. Memory does not grow with
    the number of images.

    Raises:
        UserError: the features are not finite, or the GPU is too small.
    """

    def describe(names: list[str], pixels: "torch.Tensor") -> np.ndarray:
        found = pooled_features(encoder, pixels, device)[: len(names)].cpu().numpy()
        if not np.isfinite(found).all():
            raise UserError(f"the encoder gives {names[0]} features that are no finite numbers; give other --weights")
        return found

    width: Any = encoder.out_channels
    rows = rows_file(path, key)
    if not rows.exists():
        begin_rows(rows, (len(images), width[-1]))
    refused = cache(partial(refusal, encoder, device=device))
    failures = fill_rows(rows, images, describe, refused, batch_size, workers, device)
    if not failures:
        end_rows(rows, path, "features", {"names": images.names, "key": np.array(key)})
    return failures


def standardise(features: np.ndarray) -> None:
    """Give each column of `features` (N, D) float32 mean 0 and deviation 1, in place; a constant column becomes 0.

    Mean and deviation are of all rows, summed in float64 block by block (as sklearn.preprocessing.StandardScaler's).
    """
    blocks = [features[start : start + ROWS_AT_ONCE] for start in range(0, len(features), ROWS_AT_ONCE)]
    mean = sum(block.sum(axis=0, dtype=np.float64) for block in blocks) / len(features)
    deviation = np.sqrt(sum(np.square(block - mean).sum(axis=0) for block in blocks) / len(features))
    constant = deviation <= np.finfo(np.float32).eps * np.abs(mean)
    for block in blocks:
        block[:] = np.where(constant, 0, (block - mean) / np.where(constant, 1, deviation))


def load_all(draws: list[ImageDraw], folder: Path) -> np.ndarray:
    """Return the features (N, D) float32 of `draws`, one after the other, from their files in `folder`; standardised.

    Raises:
        UserError: a file is torn, or all images have the same features.
    """
    first = read_features(folder / f"{draws[0].name}.npz")
    features = np.empty((sum(map(len, draws)), first.shape[1]), np.float32)
    start = 0
    for draw in draws:
        features[start : start + len(draw)] = read_features(folder / f"{draw.name}.npz")
        start += len(draw)
    standardise(features)
    if not features.any():
        raise UserError("all images have the same features; compare images that differ, or give other --weights")
    return features
