"""Features of images for fidelity metrics: Inception-v3 of 2015, VGG16, and the project's own segmentation encoder.

Weights are read from files on this machine, as tensors alone: nothing in them is run, and nothing is downloaded. What
is missing or another file is told in one line, and the metric is left out.
"""

import hashlib
import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize, pad

from stylegan_errors import StyleganError
from stylegan_files import digest_of, read_json
from stylegan_snapshot import BROKEN

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STRIDE = 32
"""What segmentation encoders divide the sides of an image by."""
VGG_SIDE, VGG_WIDTH = 224, 4096
LPIPS_LAYERS = (3, 8, 15, 22, 29)
"""Of torchvision's vgg16.features: relu1_2, relu2_2, relu3_3, relu4_3, relu5_3."""


class MetricUnavailable(StyleganError):
    """A metric cannot be computed here, for want of weights or of a library; the line says what to put where."""


@dataclass(frozen=True)
class Weights:
    """A file of published weights, known by the first digits of its SHA-256.

    Attributes:
        names: what the file is called, by those who provide it.
        sha256: the first digits.
        url: where it is to be had.
        option: what names it on the command line.
    """

    names: tuple[str, ...]
    sha256: str
    url: str
    option: str


INCEPTION = Weights(
    ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth"),
    "6726825d",
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    "--inception",
)
VGG16 = Weights(("vgg16-397923af.pth",), "397923af", "https://download.pytorch.org/models/vgg16-397923af.pth", "--vgg")


@dataclass(frozen=True)
class Detector:
    """What makes features of images.

    Attributes:
        name: `inception`, `vgg16` or `encoder`.
        width: numbers per image, D.
        digest: SHA-256 of the weights and of what else the features depend on.
        features: images (B, 3, H, W) uint8 -> features (B, D) float32 on the same device.
        canonical: whether distances between its features may bear the published names.
        probabilities: features -> class probabilities, where there is a classifier.
    """

    name: str
    width: int
    digest: str
    features: Callable[[Tensor], Tensor]
    canonical: bool = True
    probabilities: Callable[[Tensor], Tensor] | None = None


def find_weights(weights: Weights, given: Path | None) -> Path:
    """Return the file `given`, or the one in PyTorch's own folder of checkpoints.

    Raises:
        MetricUnavailable: it is not there.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    found = [given] if given else [folder / name for name in weights.names]
    there = [path for path in found if path.is_file()]
    if not there:
        where = f"{given} is missing" if given else f"{weights.names[0]} is not in {folder}"
        raise MetricUnavailable(f"{where}; download {weights.url} to there, or name the file by {weights.option}")
    return there[0]


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors in `path`, a .safetensors or a state dict of torch.save; no code in it is run.

    Raises:
        MetricUnavailable: the file is torn or holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (*BROKEN, SafetensorError) as error:
        raise MetricUnavailable(
            f"{path} is torn or not a file of tensors ({type(error).__name__}); fetch or make it again"
        ) from None
    if not isinstance(found, dict):
        raise MetricUnavailable(f"{path} holds a {type(found).__name__}, not tensors by name; give the right file")
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}


def load_into(module: nn.Module, tensors: dict[str, Tensor], path: Path, what: str) -> None:
    """Load `tensors` into `module`.

    Raises:
        MetricUnavailable: names or shapes differ.
    """
    wanted = {name: value for name, value in module.state_dict().items() if not name.endswith("num_batches_tracked")}
    bad = [name for name, value in wanted.items() if name not in tensors or tensors[name].shape != value.shape]
    if bad:
        raise MetricUnavailable(f"{path} does not hold {what}: {bad[0]} is missing or of another shape")
    module.load_state_dict({name: tensors[name] for name in wanted}, strict=False)


def inception_detector(given: Path | None, device: torch.device) -> Detector:
    """Return the Inception-v3 of 2015 with the weights in the file `given`, or in PyTorch's folder of checkpoints.

    Any file with its tensors will do, but only with the published ones is it `canonical`.

    Raises:
        MetricUnavailable: they are missing, or not this network's.
    """
    from stylegan_inception import WIDTH, inception_2015, inception_input

    path = find_weights(INCEPTION, given)
    digest, tensors = digest_of(path), load_tensors(path)
    network = inception_2015()
    load_into(network, tensors, path, "the Inception-v3 of 2015")
    network.requires_grad_(False).to(device)
    classifier = tensors["fc.weight"].to(device) if "fc.weight" in tensors else None  # (1008, 2048)

    def features(images: Tensor) -> Tensor:
        return network(inception_input(images)).float()

    def probabilities(found: Tensor) -> Tensor:
        assert classifier is not None
        return torch.softmax(found @ classifier.T, dim=1)  # without bias, as the score is computed since its first code

    canonical = digest.startswith(INCEPTION.sha256)
    return Detector("inception", WIDTH, digest, features, canonical, None if classifier is None else probabilities)


def load_vgg16(given: Path | None, device: torch.device) -> tuple[nn.Module, str]:
    """Return torchvision's VGG16 with its ImageNet weights, and their digest.

    Raises:
        MetricUnavailable: the weights are missing or others.
    """
    from torchvision.models import vgg16

    path = find_weights(VGG16, given)
    digest = digest_of(path)
    if not digest.startswith(VGG16.sha256):
        raise MetricUnavailable(
            f"{path} is not {VGG16.names[0]}: its SHA-256 begins with {digest[:8]}; get {VGG16.url}"
        )
    network = vgg16(weights=None, init_weights=False)
    load_into(network, load_tensors(path), path, "torchvision's VGG16")
    return network.eval().requires_grad_(False).to(device), digest


def vgg_detector(given: Path | None, device: torch.device) -> Detector:
    """Return VGG16 as a detector: the 4096 activations of its second fully connected layer.

    Images are resized to 224 pixels, bilinearly with antialiasing (Kynkäänniemi et al. 2019, arXiv 1904.06991, section
    2.1, for the layer).

    Raises:
        MetricUnavailable: the weights are missing or others.
    """
    network, digest = load_vgg16(given, device)
    return Detector("vgg16", VGG_WIDTH, digest, lambda images: vgg_activations(network, images))


def vgg_activations(network: Any, images: Tensor) -> Tensor:
    """Return the activations (B, 4096) of the second fully connected layer for `images` (B, 3, H, W) uint8."""
    resized = interpolate(
        images.float(), size=(VGG_SIDE, VGG_SIDE), mode="bilinear", align_corners=False, antialias=True
    )
    maps = network.avgpool(network.features(imagenet_normalised(resized)))
    found: Tensor = network.classifier[:5](maps.flatten(1))  # Linear, ReLU, Dropout, Linear, ReLU
    return found


def imagenet_normalised(pixels: Tensor) -> Tensor:
    """Return `pixels` (B, 3, H, W) in 0..255 with ImageNet's mean and deviation taken out."""
    mean, std = imagenet_statistics(pixels.device)
    return (pixels - mean) / std


@cache
def imagenet_statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of 8-bit values, (3, 1, 1) float32 each; kept, since a copy to a GPU waits for it."""
    with torch.inference_mode(False):
        mean = torch.tensor(IMAGENET_MEAN, device=device).view(3, 1, 1) * 255
        std = torch.tensor(IMAGENET_STD, device=device).view(3, 1, 1) * 255
    return mean, std


def perceptual_distance(given: Path | None, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """Return LPIPS on VGG16: two batches of images (B, 3, H, W) float32 in 0..255 -> distances (B,).

    Raises:
        MetricUnavailable: VGG16's weights or the package `lpips`, which has the weights of the layers, are missing.
    """
    network: Any = load_vgg16(given, device)[0]
    found = importlib.util.find_spec("lpips")
    path = Path(found.origin).parent / "weights" / "v0.1" / "vgg.pth" if found and found.origin else None
    if path is None or not path.is_file():
        raise MetricUnavailable("ppl2_wend needs the weights in the package lpips; pip install --no-deps lpips==0.1.4")
    tensors = load_tensors(path)
    layers = [tensors[f"lin{i}.model.1.weight"].flatten().to(device) for i in range(len(LPIPS_LAYERS))]
    return lambda a, b: lpips_of(network.features, layers, a, b)


def lpips_of(features: Any, layers: list[Tensor], a: Tensor, b: Tensor) -> Tensor:
    """Return the distances (B,) of `a` and `b` (B, 3, H, W) in 0..255: squared differences of unit vectors, weighted.

    Args:
        features: vgg16.features.
        layers: the weights of the channels of each of `LPIPS_LAYERS`.
        a: images.
        b: others.

    Source: Zhang et al. 2018, arXiv 1801.03924, eq. 1.
    """
    x = imagenet_normalised(torch.cat([a, b]))
    total = torch.zeros(len(a), device=a.device)
    for number, layer in enumerate(features[: LPIPS_LAYERS[-1] + 1]):
        x = layer(x)
        if number in LPIPS_LAYERS:
            first, second = normalize(x, dim=1, eps=1e-10).chunk(2)
            weight = layers[LPIPS_LAYERS.index(number)].view(1, -1, 1, 1)
            total += ((first - second).square() * weight).sum(dim=1).mean(dim=(1, 2))
    return total


def encoder_detector(weights: Path | None, device: torch.device) -> Detector:
    """Return the encoder of a trained segmenter: the mean over space of its last stage.

    Args:
        weights: best.pt of segmentation_train.py, with the run.json of its training beside it.
        device: where to compute, in float32.

    Raises:
        MetricUnavailable: the file, its run.json or the library is missing, or they do not fit.
    """
    if weights is None or not weights.is_file():
        told = "no segmenter is named" if weights is None else f"{weights} is missing"
        raise MetricUnavailable(f"{told}; name the best.pt of segmentation_train.py by --fd-encoder")
    arch, encoder = kind_of_segmenter(weights)
    network = build_encoder(arch, encoder)
    own = {name.removeprefix("encoder."): t for name, t in load_tensors(weights).items() if name.startswith("encoder.")}
    load_into(network, own, weights, f"the encoder {encoder} of a {arch}")
    network.eval().requires_grad_(False).to(device)
    with torch.inference_mode():
        width = encoder_features(network, torch.zeros(1, 3, 64, 64, dtype=torch.uint8, device=device)).shape[1]
    digest = hashlib.sha256(f"{digest_of(weights)} {arch} {encoder}".encode()).hexdigest()
    return Detector("encoder", width, digest, lambda images: encoder_features(network, images))


def kind_of_segmenter(weights: Path) -> tuple[str, str]:
    """Return (architecture, encoder) from the run.json beside `weights`.

    Raises:
        MetricUnavailable: it does not tell.
    """
    run = weights.with_name("run.json")
    found = read_json(run) if run.is_file() else {}
    options = found.get("options") if isinstance(found, dict) else None
    if not isinstance(options, dict) or not options.get("arch") or not options.get("encoder"):
        raise MetricUnavailable(f"{run} does not tell the architecture and encoder of {weights.name}; put it there")
    return options["arch"], options["encoder"]


def build_encoder(arch: str, encoder: str) -> nn.Module:
    """Return the encoder as the segmenter has it: some architectures change its strides.

    Raises:
        MetricUnavailable: the library is missing, or has no such segmenter.
    """
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise MetricUnavailable(f"fd_encoder needs segmentation-models-pytorch ({error}); install it") from None
    try:
        with torch.random.fork_rng(devices=()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = smp.create_model(arch, encoder_name=encoder, encoder_weights=None)
    except (LookupError, ValueError, RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        raise MetricUnavailable(f"a {arch} with encoder {encoder} cannot be built ({error})") from None
    encoding: nn.Module = model.encoder
    return encoding


def encoder_features(network: nn.Module, images: Tensor) -> Tensor:
    """Return the mean over space of the last stage (B, D) float32 for `images` (B, 3, H, W) uint8.

    Sides that are no multiple of the encoder's stride are continued by their edge.
    """
    height, width = images.shape[2:]
    pixels = pad(images.float(), (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
    stages = network(imagenet_normalised(pixels).to(memory_format=torch.channels_last))
    if isinstance(stages, tuple):  # of a vision transformer: its stages, and its prefix tokens
        stages = stages[0]
    found: Tensor = stages[-1].float().mean(dim=(2, 3))
    return found
