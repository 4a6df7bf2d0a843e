"""Features of images: what a trained encoder makes of each, pooled to one vector, extracted once and kept on disk.

While a set is extracted its rows go into an array file in which what is not done yet is nan, so a killed run and its
continuation need no other memory. When all are there, the file becomes the `.npz` that researchers load.
"""

import hashlib
import json
import shutil
import zipfile
import zlib
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aras.errors import UserError
from aras.feature_maps.draws import ImageDraw
from aras.files import whole_file
from aras.inference import logits_of, padded_to_stride
from aras.loading import cuts, image_loader
from aras.pairs import told_size
from aras.segmenter import in_short
from aras.training import memory_told

if TYPE_CHECKING:
    import torch

TORN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)
"""What reading an .npz raises when it is damaged or another file, by where the damage is."""

ROWS_AT_ONCE = 2048


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
    rows = path.with_suffix(f".{key[:16]}.npy")
    for stale in path.parent.glob(f"{path.stem}.{'[0-9a-f]' * 16}.npy"):
        if stale != rows:
            stale.unlink()
    if not rows.exists():
        width: Any = encoder.out_channels
        _write_empty(rows, (len(images), width[-1]))
    failures = _fill(rows, images, encoder, batch_size, workers, device)
    if not failures:
        _write_npz(path, rows, images.names, key)
        rows.unlink()
    return failures


def _write_empty(path: Path, shape: tuple[int, int]) -> None:
    """Write an array file of `shape` float32 that is nan throughout."""
    row = np.full(shape[1], np.nan, np.float32).tobytes()
    with whole_file(path) as part, part.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for _ in range(shape[0]):
            file.write(row)


def _lacking(rows: Path) -> np.ndarray:
    """Return which rows of the array file `rows` are not written in full, (N,) bool."""
    starts = range(0, len(np.load(rows, mmap_mode="r")), ROWS_AT_ONCE)
    # Mapped anew for each block: pages of a lasting map would count as this process's memory.
    blocks = (np.load(rows, mmap_mode="r")[start : start + ROWS_AT_ONCE] for start in starts)
    return np.concatenate([np.isnan(block).any(axis=1) for block in blocks])


def _fill(
    rows: Path,
    images: ImageDraw,
    encoder: "torch.nn.Module",
    batch_size: int,
    workers: int,
    device: "torch.device",
) -> dict[str, str]:
    """Write the rows that the array file `rows` lacks; return why each image failed, by name."""
    import torch
    from tqdm import tqdm

    lacking = _lacking(rows)
    batches = [batch for batch in cuts(len(images), batch_size) if lacking[batch].any()]
    loader = image_loader(images.folder, images.names, batches, batch_size, workers, device)
    refused = cache(partial(refusal, encoder, device=device))
    failures: dict[str, str] = {}
    with torch.inference_mode(), memory_told("lower --batch-size"):
        for groups, failed in tqdm(loader, desc=f"features of {images.name}", disable=None, unit="batch"):
            failures |= failed
            for names, pixels in groups:
                reason = refused(size=tuple(pixels.shape[1:3]))
                if reason:
                    failures |= dict.fromkeys(names, reason)
                    continue
                found = pooled_features(encoder, pixels, device)[: len(names)].cpu().numpy()
                if not np.isfinite(found).all():
                    raise UserError(
                        f"the encoder gives {names[0]} features that are no finite numbers; give other --weights"
                    )
                np.load(rows, mmap_mode="r+")[np.searchsorted(images.names, names)] = found
    return failures


def _write_npz(path: Path, rows: Path, names: np.ndarray, key: str) -> None:
    """Write the .npz at `path` from the array file `rows`, which is copied into it piece by piece."""
    with whole_file(path) as part, zipfile.ZipFile(part, "w") as archive:
        with rows.open("rb") as source, archive.open(zipfile.ZipInfo("features.npy"), "w", force_zip64=True) as member:
            shutil.copyfileobj(source, member, 1 << 20)
        for name, array in {"names": names, "key": np.array(key)}.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                np.lib.format.write_array(member, array)


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
