"""Turn an official network pickle of stylegan2-ada-pytorch or stylegan3 into a snapshot of train.py.

A pickle is a program; this one is read without running any of it (stylegan_pickles.py). Tensors have the same names on
both sides, and all of them must be there.
"""

import json
from pathlib import Path
from typing import Any

import click

from stylegan_errors import Script, StyleganError


def told_networks(networks: dict[str, Any]) -> list[str]:
    """Return a line for each network: parameters and buffers, tensors and numbers."""
    lines = []
    for name, network in networks.items():
        parts = {"parameters": list(network.parameters()), "buffers": list(network.buffers())}
        told = [f"{sum(t.numel() for t in found):,} {kind} in {len(found)} tensors" for kind, found in parts.items()]
        lines.append(f"{name:6} {', '.join(told)}")
    return lines


def tell(path: Path) -> None:
    """Print what is in the snapshot or pickle at `path`."""
    from stylegan_official import load_networks
    from stylegan_snapshot import NETWORKS

    only = NETWORKS if path.suffix == ".safetensors" else tuple(name for name in NETWORKS if name in networks_in(path))
    snapshot = load_networks(path, only)
    click.echo(json.dumps(snapshot.info, indent=2))
    click.echo("\n".join(told_networks({name: getattr(snapshot, name) for name in only})))


def networks_in(path: Path) -> set[str]:
    """Return the names of the networks in the pickle at `path`."""
    from stylegan_pickles import PickledModule, read_pickle

    return {name for name, value in read_pickle(path).items() if isinstance(value, PickledModule)}


@click.command(cls=Script)
@click.option("--network", type=click.Path(path_type=Path), required=True, metavar="FILE", help="The official pickle.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.safetensors",
    show_default="--network with this suffix",
    help="The snapshot to write.",
)
@click.option("--network-info", is_flag=True, help="Print what is in a pickle or snapshot, and write nothing.")
def main(network: Path, output: Path | None, network_info: bool) -> None:
    r"""Turn an official network pickle into a snapshot of train.py.

    \b
    Reads   a network pickle of stylegan2-ada-pytorch or stylegan3 (of the TensorFlow code: none); nothing in it is run
    Writes  a .safetensors for gen_images.py, gen_video.py, calc_metrics.py and train.py --resume, and a .json beside it

    \b
    Example  python stylegan3/import_snapshot.py --network stylegan3-t-ffhqu-256x256.pkl
             python stylegan3/import_snapshot.py --network network-snapshot-005000.safetensors --network-info

    It is refused when a tensor is missing, unknown or of another shape, when it was built with an option that the
    networks here do not have, and when it asks for anything else than networks. The other scripts also take the pickle
    itself.

    To resume, run the same command again. The snapshot is written whole or not at all.
    """
    if network_info:
        tell(network)
        return
    from stylegan_official import load_pickled_snapshot
    from stylegan_snapshot import NETWORKS, save_snapshot

    if network.suffix == ".safetensors":
        raise StyleganError(f"{network} is a snapshot of train.py already; --network-info prints what is in it")
    output = output or network.with_suffix(".safetensors")
    if output.suffix != ".safetensors":  # by which the other scripts tell it from a pickle
        raise click.UsageError("--output must end in .safetensors.")
    found = load_pickled_snapshot(network, NETWORKS)
    assert found.G is not None and found.D is not None and found.G_ema is not None
    save_snapshot(output, found.G, found.D, found.G_ema, found.info)
    click.echo("\n".join(told_networks({"G": found.G, "D": found.D, "G_ema": found.G_ema})))
    click.echo(f"Wrote {output}")


if __name__ == "__main__":
    main()
