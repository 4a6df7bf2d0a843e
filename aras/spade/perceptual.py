"""The perceptual term of the published recipe: how far VGG19's features of two images lie apart (Johnson et al. 2016).

The published script gave VGG images in -1..1 that were not normalised as ImageNet's, left its weights unfrozen and sent
gradients through the real branch too. Here images are normalised, the weights frozen, and the real branch has no
gradient, which is what the term is meant to be, and cheaper.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from aras.checkpoints import load_tensors
from aras.errors import UserError
from aras.inference import IMAGENET_MEAN, IMAGENET_STD
from aras.training import reachable

if TYPE_CHECKING:
    from torch import Tensor

LAYERS = 16
"""Of VGG19's features, up to relu3_3, as published."""

URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"


class Perceptual(nn.Module):
    """The mean absolute difference of VGG19's relu3_3 features (Johnson et al. 2016, arXiv 1603.08155, equation 2)."""

    mean: "Tensor"
    deviation: "Tensor"

    def __init__(self, features: nn.Module):
        """Take the first 16 layers of VGG19's `features`, which are frozen."""
        super().__init__()
        self.features = features.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, fake: "Tensor", real: "Tensor") -> "Tensor":
        """Return the distance of `fake` and `real`, (B, 3, H, W) in -1..1 each; gradients go to `fake` alone."""
        with torch.no_grad():
            wanted = self._of(real)
        return functional.l1_loss(self._of(fake).float(), wanted.float())

    def _of(self, images: "Tensor") -> "Tensor":
        """Return the features of `images` (B, 3, H, W) in -1..1."""
        return self.features(((images + 1) / 2 - self.mean) / self.deviation)


def drawn_features() -> nn.Module:
    """Return the first 16 layers of VGG19 with weights from torch's current seed, without touching any file."""
    from torchvision.models import vgg19

    with torch.device("meta"):  # its classifier alone would be half a gigabyte
        layers = vgg19(weights=None).features[:LAYERS]
    layers = layers.to_empty(device="cpu")
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layers


def load_perceptual(source: str) -> Perceptual | None:
    """Return the term with trained weights, None where there are none.

    Args:
        source: `none`; `auto` (torch's cache of downloads, or the download where it can be reached); or a file with
            torchvision's vgg19, whole or its features alone, as a state dict.

    Raises:
        UserError: the file is missing, cannot be read or does not fit.
    """
    if source == "none":
        return None
    path = _cached() if source == "auto" else Path(source)
    if path is None:
        return None
    if not path.is_file():
        raise UserError(f"{path} is missing; --vgg takes torchvision's vgg19 weights ({URL}), auto, or none")
    tensors = load_tensors(path)
    prefix = "features." if any(name.startswith("features.") for name in tensors) else ""
    layers = drawn_features()
    wanted: dict[str, Any] = {}
    for name, tensor in layers.state_dict().items():
        found = tensors.get(prefix + name)
        if not isinstance(found, torch.Tensor) or found.shape != tensor.shape:
            raise UserError(
                f"{path} has no {prefix + name} of shape {tuple(tensor.shape)}; --vgg takes vgg19's weights"
            )
        wanted[name] = found
    layers.load_state_dict(wanted)
    return Perceptual(layers)


def _cached() -> Path | None:
    """Return the file of VGG19 in torch's cache, downloaded where it can be reached, None where it cannot."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / URL.rpartition("/")[2]
    if not path.is_file() and reachable(URL):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL, str(path), hash_prefix="dcbb9e9d", progress=False)
        except (OSError, RuntimeError):  # no way there after all, no room, or a download that was cut off
            return None
    return path if path.is_file() else None
