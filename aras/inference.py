"""How images go through a segmenter: normalised on the device, in mixed precision, turned about, averaged, labelled."""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from aras.errors import UserError
from aras.legend import NUM_CLASSES
from aras.pairs import told_size
from aras.segmenter import STRIDE, in_short

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

PRECISIONS = ("auto", "bf16", "fp16", "fp32")
"""What `--precision` takes."""

SYMMETRIES = 8
"""Of a square: four quarter turns, and the same of its mirror image (the dihedral group D4)."""


def precision_of(name: str, device: "torch.device") -> "torch.dtype":
    """Return the type in which a model computes for `--precision` `name`.

    `auto` is bfloat16 where a GPU computes in it, float16 on an older GPU, and float32 on a CPU.
    """
    import torch

    named = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    if name != "auto":
        return named[name]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def logits_of(
    model: "torch.nn.Module",
    images: "torch.Tensor",
    device: "torch.device",
    precision: "torch.dtype | None" = None,
) -> "torch.Tensor":
    """Return the logits (B, 7, H, W) float32 of `images` (B, H, W, 3) uint8 RGB, on `device`.

    Bytes cross to the device and are normalised there. Seen as (B, 3, H, W) they are channels-last already, the layout
    in which convolutions are quickest on both kinds of device. Without `precision` it is that of `--precision auto`.
    """
    import torch

    dtype = precision or precision_of("auto", device)
    batch = images.to(device, non_blocking=True).permute(0, 3, 1, 2).float()  # (B, 3, H, W) float32
    mean, std = _imagenet_statistics(device)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        return model((batch - mean) / std).float()


@cache
def _imagenet_statistics(device: "torch.device") -> tuple["torch.Tensor", "torch.Tensor"]:
    """Return mean and deviation of 8-bit values, (3, 1, 1) float32 each; kept, since a copy to a GPU waits for it."""
    import torch

    with torch.inference_mode(False):
        mean = torch.tensor(IMAGENET_MEAN, device=device).view(3, 1, 1) * 255
        std = torch.tensor(IMAGENET_STD, device=device).view(3, 1, 1) * 255
    return mean, std


def turned(pixels: "torch.Tensor", symmetry: int, dims: tuple[int, int]) -> "torch.Tensor":
    """Return `pixels` under symmetry 0..7 of their rows and columns, which are the dimensions `dims`."""
    pixels = pixels.rot90(symmetry % 4, dims)
    return pixels.flip(dims[1]) if symmetry >= 4 else pixels


def turned_back(pixels: "torch.Tensor", symmetry: int, dims: tuple[int, int]) -> "torch.Tensor":
    """Return what `turned` turned as it was."""
    pixels = pixels.flip(dims[1]) if symmetry >= 4 else pixels
    return pixels.rot90(-(symmetry % 4), dims)


def mean_logits(
    models: Sequence["torch.nn.Module"],
    images: "torch.Tensor",
    device: "torch.device",
    precision: "torch.dtype | None" = None,
    symmetries: int = 1,
) -> "torch.Tensor":
    """Return logits (B, 7, H, W) float32 whose softmax is the mean probability over models and symmetries.

    Images from above have no up and no left, so `symmetries` of 8 is test-time augmentation that costs eight passes;
    with one model and 1, the logits are the model's own. `images` are (B, H, W, 3) uint8.
    """
    if len(models) * symmetries == 1:
        return logits_of(models[0], images, device, precision)
    images = images.to(device, non_blocking=True)
    total = None
    for symmetry in range(symmetries):
        view = turned(images, symmetry, (1, 2))
        for model in models:
            chances = turned_back(logits_of(model, view, device, precision).softmax(dim=1), symmetry, (2, 3))
            total = chances.clone() if total is None else total.add_(chances)
    assert total is not None
    return total.div_(len(models) * symmetries).clamp_min_(1e-30).log_()


def padded_to_stride(images: "torch.Tensor") -> "torch.Tensor":
    """Return `images` (B, H, W, 3) continued by their edge to sides that are multiples of `STRIDE`."""
    from torch.nn.functional import pad

    height, width = images.shape[1:3]
    padding = (0, -width % STRIDE, 0, -height % STRIDE)
    if not any(padding):
        return images
    return pad(images.permute(0, 3, 1, 2).float(), padding, mode="replicate").permute(0, 2, 3, 1)


def probabilities_of(
    models: Sequence["torch.nn.Module"],
    images: "torch.Tensor",
    device: "torch.device",
    symmetries: int = 1,
) -> "torch.Tensor":
    """Return the mean probabilities (B, 7, H, W) float32 of `images` (B, H, W, 3) uint8, on `device`.

    Sides that are no multiple of the models' stride are continued by their edge, and cut off again.
    """
    height, width = images.shape[1:3]
    logits = mean_logits(models, padded_to_stride(images), device, symmetries=symmetries)
    return logits[:, :, :height, :width].softmax(dim=1)


def labels_and_confidence(
    models: Sequence["torch.nn.Module"],
    images: "torch.Tensor",
    device: "torch.device",
    symmetries: int = 1,
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Return labels (B, H, W) uint8 of `images` (B, H, W, 3) uint8, and their confidence (B, H, W) float32.

    A pixel's confidence is the probability of the class it was given.
    """
    import torch

    confidence, labels = probabilities_of(models, images, device, symmetries).max(dim=1)
    return labels.to(torch.uint8), confidence


def sums_of_classes(labels: "torch.Tensor", confidence: "torch.Tensor") -> tuple[np.ndarray, np.ndarray]:
    """Return each image's pixels of each class (B, 7), and the sums of their confidence (B, 7) float64."""
    import torch

    count = len(labels)
    cells = (labels.long() + NUM_CLASSES * torch.arange(count, device=labels.device).view(-1, 1, 1)).flatten()
    pixels = torch.bincount(cells, minlength=count * NUM_CLASSES).view(count, NUM_CLASSES)
    sums = torch.bincount(cells, confidence.double().flatten(), count * NUM_CLASSES).view(count, NUM_CLASSES)
    return pixels.cpu().numpy(), sums.cpu().numpy()


def check_takes(model: "torch.nn.Module", size: tuple[int, ...], device: "torch.device") -> None:
    """Raise `UserError` when `model`, on `device`, cannot take images of (height, width) `size`: some need larger ones.

    It is shown two black images; this leaves it in evaluation mode.
    """
    import torch

    try:
        with torch.inference_mode():
            logits_of(model.eval(), padded_to_stride(torch.zeros((2, *size[:2], 3), dtype=torch.uint8)), device)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UserError(
            f"--arch {type(model).__name__} does not take images of {told_size(size)} pixels ({in_short(error)}); name"
            " another --arch, or make larger patches"
        ) from None
