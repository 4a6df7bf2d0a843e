"""The segmenter: a segmentation-models-pytorch architecture on an encoder, its weights, and how images go through it.

Module-level imports stay light, so that a command line can offer `ARCHITECTURES` without waiting for PyTorch.
"""

import os
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aras.checkpoints import fit_tensors, load_tensors
from aras.confusion import confusion_matrix
from aras.errors import UserError
from aras.files import read_json
from aras.legend import NO_DATA, NUM_CLASSES
from aras.pairs import told_size
from aras.training import reachable

if TYPE_CHECKING:
    import torch

    from aras.loading import Batch

ARCHITECTURES = (
    *("DeepLabV3", "DeepLabV3Plus", "DPT", "FPN", "Linknet", "MAnet"),
    *("PAN", "PSPNet", "Segformer", "Unet", "UnetPlusPlus", "UPerNet"),
)
"""What segmentation-models-pytorch 0.6 offers, by its own names."""

STRIDE = 32
"""Image sides are a multiple of this: the encoders halve five times."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HUB = "https://huggingface.co"


def build_model(arch: str, encoder: str, encoder_weights: str) -> "torch.nn.Module":
    """Return the segmenter, on the CPU, with its decoder drawn from torch's current seed.

    Args:
        arch: one of `ARCHITECTURES`.
        encoder: an encoder of segmentation-models-pytorch (`tu-<name>` for any of timm's).
        encoder_weights: `imagenet` (from the hub or its cache), `none`, or a file with the encoder's state dict.

    Raises:
        UserError: the encoder is unknown or does not suit `arch`, or the weights cannot be had or do not fit.
    """
    if encoder_weights == "imagenet":
        _skip_hub_when_unreachable()
    import segmentation_models_pytorch as smp

    source = "imagenet" if encoder_weights == "imagenet" else None
    try:
        model = smp.create_model(arch, encoder_name=encoder, encoder_weights=source, classes=NUM_CLASSES)
    except OSError as error:
        raise UserError(
            f"the ImageNet weights of {encoder} cannot be fetched from {os.environ.get('HF_ENDPOINT', HUB)}"
            f" ({type(error).__name__}); use --encoder-weights none, or --encoder-weights FILE with the encoder's"
            " state dict"
        ) from None
    except (LookupError, ValueError, RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"--arch {arch} cannot be built with --encoder {encoder} and --encoder-weights {encoder_weights}:"
            f" {_short(error)}"
        ) from None
    if encoder_weights not in ("imagenet", "none"):
        path = Path(encoder_weights)
        fit_tensors(model.encoder, load_tensors(path), path, f"the encoder {encoder}")
    return model


def _skip_hub_when_unreachable() -> None:
    """Have the hub's client answer from its cache or fail at once; left alone it tries for most of a minute."""
    if not reachable(os.environ.get("HF_ENDPOINT", HUB)):
        os.environ["HF_HUB_OFFLINE"] = "1"


def _short(error: Exception) -> str:
    """Return an error's message in one line of at most 200 characters."""
    message = " ".join(str(error.args[0] if error.args else error).split())
    return message if len(message) <= 200 else message[:200] + "..."


def check_takes(model: "torch.nn.Module", size: tuple[int, ...], device: "torch.device") -> None:
    """Raise `UserError` when `model`, on `device`, cannot take images of (height, width) `size`: some need larger ones.

    It is shown two black images; this leaves it in evaluation mode.
    """
    import torch

    try:
        with torch.inference_mode():
            labels_and_confidence(model.eval(), torch.zeros((2, *size[:2], 3), dtype=torch.uint8), device)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UserError(
            f"--arch {type(model).__name__} does not take images of {told_size(size)} pixels ({_short(error)}); name"
            " another --arch, or make larger patches"
        ) from None


def load_segmenter(weights: Path, arch: str | None, encoder: str | None) -> "torch.nn.Module":
    """Return the trained segmenter in `weights`: best.pt, a published .pth or safetensors.

    Raises:
        UserError: the file cannot be read or does not fit, or nothing tells the architecture and encoder.
    """
    arch, encoder = kind_of_weights(weights, arch, encoder)
    tensors = load_tensors(weights)
    if "optimizer" in tensors:
        raise UserError(f"{weights} is the state of a training; give best.pt beside it")
    model = build_model(arch, encoder, "none")
    fit_tensors(model, tensors, weights, f"{arch} with {encoder}")
    return model.eval()


def kind_of_weights(weights: Path, arch: str | None, encoder: str | None) -> tuple[str, str]:
    """Return (architecture, encoder) as given, or from the run.json beside `weights`, or from its published name.

    Raises:
        UserError: neither says.
    """
    if arch and encoder:
        return arch, encoder
    run = weights.with_name("run.json")
    if not weights.is_file():
        raise UserError(f"{weights} is missing; run segmentation_train.py first, or name the file by --weights")
    found = read_json(run) if run.is_file() else {}
    options = found.get("options") if isinstance(found, dict) else None
    for kind in (options, kind_of_name(weights.name)):
        if isinstance(kind, dict):
            arch, encoder = arch or kind.get("arch"), encoder or kind.get("encoder")
    if not arch or not encoder:
        raise UserError(f"{run} does not tell what {weights.name} is; give --arch and --encoder")
    return arch, encoder


def published_name(arch: str, encoder: str) -> str:
    """Return the name that the published scripts give to a model's files."""
    return f"ARAS400k_{arch}_{encoder.replace('/', '-').replace(':', '-')}"


def kind_of_name(name: str) -> dict[str, str]:
    """Return what the file name best_`published_name`.pth tells of the model, nothing if it is another name."""
    match = re.fullmatch(rf"best_ARAS400k_(?P<arch>{'|'.join(ARCHITECTURES)})_(?P<encoder>.+)\.pth", name)
    return match.groupdict() if match else {}


def logits_of(model: "torch.nn.Module", images: "torch.Tensor", device: "torch.device") -> "torch.Tensor":
    """Return the logits (B, 7, H, W) float32 of `images` (B, H, W, 3) uint8 RGB, on `device`.

    Bytes cross to the device and are normalised there. Seen as (B, 3, H, W) they are channels-last already, the layout
    in which convolutions are quickest on both kinds of device. A GPU computes in bfloat16, the CPU in float32.
    """
    import torch

    batch = images.to(device, non_blocking=True).permute(0, 3, 1, 2).float()  # (B, 3, H, W) float32
    mean, std = _imagenet_statistics(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        return model((batch - mean) / std).float()


@cache
def _imagenet_statistics(device: "torch.device") -> tuple["torch.Tensor", "torch.Tensor"]:
    """Return mean and deviation of 8-bit values, (3, 1, 1) float32 each; kept, since a copy to a GPU waits for it."""
    import torch

    with torch.inference_mode(False):
        mean = torch.tensor(IMAGENET_MEAN, device=device).view(3, 1, 1) * 255
        std = torch.tensor(IMAGENET_STD, device=device).view(3, 1, 1) * 255
    return mean, std


def dice_loss() -> Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]:
    """Return the loss of logits (B, 7, H, W) and labels (B, H, W).

    The sum of 1 - Dice over the classes that the batch has, divided by 7: smp counts an absent class as 0.
    """
    import segmentation_models_pytorch as smp

    return smp.losses.DiceLoss("multiclass", from_logits=True, ignore_index=NO_DATA)


def evaluate(
    model: "torch.nn.Module",
    batches: "Iterable[Batch]",
    device: "torch.device",
    take: Callable[[np.ndarray], None] | None = None,
) -> tuple[float, np.ndarray]:
    """Return the mean loss and the confusion matrix (7, 7) of a split; `take` gets each batch's predictions.

    Predictions are (B, H, W) uint8 labels, in the order of names.
    """
    import torch

    model.eval()
    loss_of = dice_loss()
    total, seen = torch.zeros((), device=device), 0
    matrix = torch.zeros((NUM_CLASSES, NUM_CLASSES), dtype=torch.int64, device=device)
    with torch.inference_mode():
        for images, labels in batches:
            truth = labels.to(device, non_blocking=True)
            logits = logits_of(model, images, device)
            prediction = logits.argmax(dim=1).to(torch.uint8)  # (B, H, W)
            matrix += confusion_matrix(truth, prediction)
            total += loss_of(logits, truth) * len(images)
            seen += len(images)
            if take:
                take(prediction.cpu().numpy())
    return float(total) / seen, matrix.cpu().numpy()


def labels_and_confidence(
    model: "torch.nn.Module", images: "torch.Tensor", device: "torch.device"
) -> tuple[np.ndarray, ...]:
    """Return labels (B, H, W) uint8, pixels of each class (B, 7), and the sums of their confidence (B, 7) float64.

    A pixel's confidence is the probability of the class it was given. Sides that are no multiple of the model's stride
    are continued by their edge, and cut off again.
    """
    import torch
    from torch.nn.functional import pad

    count, height, width = images.shape[:3]
    padding = (0, -width % STRIDE, 0, -height % STRIDE)
    if any(padding):
        images = pad(images.permute(0, 3, 1, 2).float(), padding, mode="replicate").permute(0, 2, 3, 1)
    logits = logits_of(model, images, device)[:, :, :height, :width]
    confidence, labels = logits.softmax(dim=1).max(dim=1)  # (B, H, W) each
    cells = (labels + NUM_CLASSES * torch.arange(count, device=device).view(-1, 1, 1)).flatten()
    pixels = torch.bincount(cells, minlength=count * NUM_CLASSES).view(count, NUM_CLASSES)
    sums = torch.bincount(cells, confidence.double().flatten(), count * NUM_CLASSES).view(count, NUM_CLASSES)
    return labels.to(torch.uint8).cpu().numpy(), pixels.cpu().numpy(), sums.cpu().numpy()
