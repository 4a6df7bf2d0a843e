"""The segmenter: a segmentation-models-pytorch architecture on an encoder, and its weights.

Module-level imports stay light, so that a command line can offer `ARCHITECTURES` without waiting for PyTorch.
"""

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from aras.checkpoints import fit_tensors, load_tensors
from aras.errors import UserError
from aras.files import read_json
from aras.legend import NUM_CLASSES
from aras.training import reachable

if TYPE_CHECKING:
    import torch

ARCHITECTURES = (
    *("DeepLabV3", "DeepLabV3Plus", "DPT", "FPN", "Linknet", "MAnet"),
    *("PAN", "PSPNet", "Segformer", "Unet", "UnetPlusPlus", "UPerNet"),
)
"""What segmentation-models-pytorch 0.6 offers, by its own names."""

STRIDE = 32
"""Image sides are a multiple of this: the encoders halve five times."""

HUB = "https://huggingface.co"
PUBLISHED_WEIGHTS = Path("best_ARAS400k_Segformer_efficientnet-b7.pth")
OWN_WEIGHTS = Path("segmentation/best.pt")


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
            f" {in_short(error)}"
        ) from None
    if encoder_weights not in ("imagenet", "none"):
        path = Path(encoder_weights)
        fit_tensors(model.encoder, load_tensors(path), path, f"the encoder {encoder}")
    return model


def _skip_hub_when_unreachable() -> None:
    """Have the hub's client answer from its cache or fail at once; left alone it tries for most of a minute."""
    if not reachable(os.environ.get("HF_ENDPOINT", HUB)):
        os.environ["HF_HUB_OFFLINE"] = "1"


def in_short(error: Exception) -> str:
    """Return an error's message in one line of at most 200 characters."""
    message = " ".join(str(error.args[0] if error.args else error).split())
    return message if len(message) <= 200 else message[:200] + "..."


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


def weights_or_default(given: Path | None) -> Path:
    """Return the weights `given`, or the published ones in the working directory, or those that were trained here.

    Raises:
        UserError: there is no such file.
    """
    weights = given or (PUBLISHED_WEIGHTS if PUBLISHED_WEIGHTS.is_file() else OWN_WEIGHTS)
    if not weights.is_file():
        also = "" if given else f", and so is {PUBLISHED_WEIGHTS}"
        raise UserError(f"{weights} is missing{also}; run segmentation_train.py first, or name the file by --weights")
    return weights


def digests_of(weights: Iterable[Path]) -> str:
    """Return the SHA-256 of each of `weights`, parted by spaces.

    Raises:
        UserError: a file is missing.
    """
    digests = []
    for path in weights:
        if not path.is_file():
            raise UserError(f"{path} is missing; run segmentation_train.py first, or name the file by --weights")
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return " ".join(digests)


def check_same_weights(record: Path, weights: Iterable[Path], digests: str, begun: Path, remedy: str) -> None:
    """Raise `UserError`, which ends with `remedy`, when `begun` was begun with weights of other SHA-256 than `digests`.

    Args:
        record: the run.json that tells of it.
        weights: the files.
        digests: theirs now, by `digests_of`.
        begun: what they make.
        remedy: what to do.
    """
    if read_json(record)["options"].get("weights_sha256") != digests:
        raise UserError(
            f"the content of {' and '.join(map(str, weights))} is not what it was when {begun} was begun, as when a"
            f" training goes on; {remedy}"
        )


def published_name(arch: str, encoder: str) -> str:
    """Return the name that the published scripts give to a model's files."""
    return f"ARAS400k_{arch}_{encoder.replace('/', '-').replace(':', '-')}"


def kind_of_name(name: str) -> dict[str, str]:
    """Return what the file name best_`published_name`.pth tells of the model, nothing if it is another name."""
    match = re.fullmatch(rf"best_ARAS400k_(?P<arch>{'|'.join(ARCHITECTURES)})_(?P<encoder>.+)\.pth", name)
    return match.groupdict() if match else {}
