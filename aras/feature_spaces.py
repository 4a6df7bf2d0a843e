"""Spaces of features in which sets of images are compared, by name: one interface, and weights from files alone.

`encoder` is the project's own trained segmenter: it knows land cover, and is always there. `inception` is the network
of FID and `dinov2` that of FD-DINOv2 (Stein et al. 2023, arXiv 2306.04675), for comparison with other work. Distances
in different spaces are different quantities, so each tells what a Fréchet distance in it is called.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aras.checkpoints import fit_tensors, load_tensors
from aras.errors import UserError
from aras.feature_maps.features import pooled_features
from aras.inference import IMAGENET_MEAN, IMAGENET_STD, turned
from aras.segmenter import HUB, load_segmenter
from aras.training import reachable

if TYPE_CHECKING:
    import torch

FEATURES = ("encoder", "inception", "dinov2")
"""What `--features` takes."""

FID_DIGEST = "6726825d"
"""How the SHA-256 of the file begins on whose network FID is defined for PyTorch."""

INCEPTION_FILES = (f"pt_inception-2015-12-05-{FID_DIGEST}.pth", f"weights-inception-2015-12-05-{FID_DIGEST}.pth")
"""The names under which pytorch-fid and torch-fidelity keep that file."""

INCEPTION_URL = "https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights"
DINOV2_SIZES = {384: "small", 768: "base", 1024: "large"}
DINOV2_PATCH, DINOV2_SIDE = 14, 224
DINOV2_HUB = "timm/vit_large_patch14_dinov2.lvd142m", "model.safetensors"


@dataclass(frozen=True)
class FeatureSpace:
    """A network that makes a vector of an image.

    Attributes:
        name: one of `FEATURES`.
        width: D, the length of a vector.
        digest: the SHA-256 of the file of weights.
        distance: what a Fréchet distance between such vectors is called.
        network: images (B, H, W, 3) uint8 -> (B, D) float32, on `device`.
        device: where it computes.
    """

    name: str
    width: int
    digest: str
    distance: str
    network: "Callable[[torch.Tensor], torch.Tensor]"
    device: "torch.device"

    def features(self, images: "torch.Tensor", symmetries: int = 1) -> "torch.Tensor":
        """Return the features (B, D) float32 of `images` (B, H, W, 3) uint8, computed in float32.

        Args:
            images: RGB, on any device.
            symmetries: 8 for the mean over the turns and mirror images of each: in what is seen from above they are the
                same scene, which these networks do not know. Eight times slower.

        Raises:
            UserError: features that are not finite numbers.
        """
        import torch

        with torch.inference_mode():
            pixels = images.to(self.device, non_blocking=True)
            views = (turned(pixels, symmetry, (1, 2)) for symmetry in range(symmetries))
            found = sum(self.network(view) for view in views) / symmetries
            assert isinstance(found, torch.Tensor)
            if not found.isfinite().all():
                raise UserError(f"--features {self.name} gives features that are no finite numbers; give other weights")
            return found


def open_space(name: str, weights: Path | None, device: "torch.device") -> FeatureSpace:
    """Return the space `name` with its `weights`, a state dict; without them, with those of the usual places.

    `encoder` takes a segmenter's best.pt with the run.json beside it, `inception` and `dinov2` also look into the
    folders where PyTorch's hub and the Hugging Face hub keep downloads. Inception is never downloaded.

    Raises:
        UserError: the weights are missing (the line says what to put where), torn, or of another network.
    """
    if name == "encoder":
        if weights is None:
            raise UserError("--features encoder needs a trained segmenter; run segmentation_train.py first")
        return encoder_space(load_segmenter(weights, None, None), digest_of(weights), device)
    return _inception(weights, device) if name == "inception" else _dinov2(weights, device)


def digest_of(path: Path) -> str:
    """Return the SHA-256 of the file `path`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def encoder_space(segmenter: "torch.nn.Module", digest: str, device: "torch.device") -> FeatureSpace:
    """Return the space of the mean over space of the last stage of `segmenter`'s encoder, which goes to `device`."""
    model: Any = segmenter.to(device).eval()
    network = partial(_pooled, model.encoder, device)
    return FeatureSpace(
        "encoder", model.encoder.out_channels[-1], digest, "Fréchet distance (segmenter's encoder)", network, device
    )


def _pooled(encoder: "torch.nn.Module", device: "torch.device", images: "torch.Tensor") -> "torch.Tensor":
    """Return what `pooled_features` does, the images last."""
    return pooled_features(encoder, images, device)


def _inception(weights: Path | None, device: "torch.device") -> FeatureSpace:
    """Return the space of Inception-v3 of 2015 (aras/inception.py)."""
    import torch

    cache = Path(torch.hub.get_dir()) / "checkpoints"
    found = [path for path in (cache / name for name in INCEPTION_FILES) if path.is_file()]
    if weights is None and not found:
        raise UserError(
            f"the weights of Inception are missing; put {INCEPTION_FILES[0]} ({INCEPTION_URL}) into {cache}, or name"
            " the file by --features-weights (runs/inception_weights.py writes one, for distances that are not called"
            " FID)"
        )
    path = weights or found[0]
    tensors = load_tensors(path)
    from aras.inception import WIDTH, features_2015, inception_2015

    network = inception_2015()
    without = ("fc.", "AuxLogits.")
    counters = {name: t for name, t in network.state_dict().items() if name.endswith("num_batches_tracked")}
    body = counters | {name: tensor for name, tensor in tensors.items() if not name.startswith(without)}
    fit_tensors(network, body, path, "Inception-v3 of 2015")
    digest = digest_of(path)
    told = "FID" if digest.startswith(FID_DIGEST) else "Fréchet distance (Inception, other weights than FID's)"
    network.to(device).to(memory_format=torch.channels_last)  # a third quicker on a CPU
    return FeatureSpace("inception", WIDTH, digest, told, partial(features_2015, network), device)


def _dinov2(weights: Path | None, device: "torch.device") -> FeatureSpace:
    """Return the space of DINOv2's class token (Oquab et al. 2023, arXiv 2304.07193)."""
    import timm
    import torch

    path = weights or _dinov2_of_hub()
    tensors = load_tensors(path)
    tensors.pop("mask_token", None)  # of the original files; it is for training
    token = tensors.get("cls_token")
    width = token.shape[-1] if isinstance(token, torch.Tensor) else 0
    if width not in DINOV2_SIZES or "pos_embed" not in tensors:
        raise UserError(f"{path} does not hold the weights of a DINOv2 of {', '.join(DINOV2_SIZES.values())} size")
    size = DINOV2_SIZES[width]
    network = timm.create_model(
        f"vit_{size}_patch{DINOV2_PATCH}_dinov2", pretrained=False, num_classes=0, img_size=DINOV2_SIDE
    )
    fit_tensors(network, tensors | {"pos_embed": _resized_places(tensors["pos_embed"])}, path, f"DINOv2 ({size})")
    told = "FD-DINOv2" if size == "large" else f"Fréchet distance (DINOv2 {size})"
    network = network.to(device).eval()
    return FeatureSpace("dinov2", width, digest_of(path), told, partial(_class_token, network), device)


def _dinov2_of_hub() -> Path:
    """Return the file of DINOv2's weights in the Hugging Face hub's cache, fetched when it is not there yet."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    there = try_to_load_from_cache(*DINOV2_HUB)
    if isinstance(there, str):
        return Path(there)
    if not reachable(constants.ENDPOINT or HUB):
        raise UserError(
            f"the weights of DINOv2 are missing and {constants.ENDPOINT or HUB} cannot be reached; fetch"
            f" {DINOV2_HUB[1]} of {DINOV2_HUB[0]} there, and name the file by --features-weights"
        )
    return Path(hf_hub_download(*DINOV2_HUB))


def _resized_places(places: "torch.Tensor") -> "torch.Tensor":
    """Return DINOv2's embeddings of places (1, 1 + M M, D), of which the first is the class token's, for 224 pixels.

    As its own code resizes them: bicubic, by a tenth of a patch more than the ratio, and cut off.
    """
    import torch

    side, token = DINOV2_SIDE // DINOV2_PATCH, places[:, :1]
    old = round((places.shape[1] - 1) ** 0.5)
    if old == side:
        return places
    grid = places[:, 1:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    ratio = (side + 0.1) / old
    grid = torch.nn.functional.interpolate(grid, scale_factor=(ratio, ratio), mode="bicubic")
    return torch.cat([token.float(), grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def _class_token(network: "torch.nn.Module", images: "torch.Tensor") -> "torch.Tensor":
    """Return the normalised class token (B, D) of `images` (B, H, W, 3) uint8, resized to 224 pixels as Pillow does."""
    import torch

    pixels = images.permute(0, 3, 1, 2).float()
    pixels = torch.nn.functional.interpolate(pixels, (DINOV2_SIDE, DINOV2_SIDE), mode="bicubic", antialias=True)
    pixels = pixels.round().clamp(0, 255) / 255
    mean, std = (torch.tensor(each, device=pixels.device).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    found: torch.Tensor = network((pixels - mean) / std)
    return found
