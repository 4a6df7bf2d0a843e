"""Compute fidelity metrics of a trained generator: FID, KID, precision and recall, path length, equivariance ...

What each metric is, and what a result may be called, tells stylegan_metrics.py.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import click

from stylegan_distributed import choose_device, is_first, place_in_environment, rank, run_in_processes, world_size
from stylegan_errors import Script, StyleganError
from stylegan_files import append_line
from stylegan_seeds import device_option, network_option

ENDINGS = ("_precision", "_recall", "_mean", "_std")
"""Of the names of a metric's results, where it has two."""


def dataset_options(options: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """Return where the real images are and what is done with them: as given, else as the snapshot tells.

    Raises:
        StyleganError: neither tells.
    """
    told = dict(info.get("dataset") or {})
    if options["data"] is not None:
        told["path"] = str(options["data"])
    if options["mirror"] is not None:
        told["mirror"] = options["mirror"]
    if not told.get("path"):
        raise StyleganError(f"{options['network']} does not tell its dataset; name it by --data")
    return told


def measure(options: dict[str, Any]) -> None:
    """Compute the metrics, together with the other processes; write and say what they are.

    Raises:
        StyleganError: one of them cannot be computed; the others are.
    """
    from stylegan_features import MetricUnavailable
    from stylegan_metrics import compute_metric
    from stylegan_official import load_networks

    device = choose_device(options["device"], world_size())
    snapshot = load_networks(options["network"])
    assert snapshot.G_ema is not None
    G, reals = snapshot.G_ema.to(device), dataset_options(options, snapshot.info)
    names = ("batch", "samples", "fd_encoder", "inception", "vgg")
    given = {name: options[name] for name in names} | {"cache_dir": options["network"].absolute().parent}
    missing = []
    for name in options["metrics"]:
        began = time.monotonic()
        shown = options["verbose"]
        try:
            found = compute_metric(name, G, reals, device, rank(), world_size(), **given, progress=shown)
        except MetricUnavailable as error:
            missing.append(f"{name}: {error.message}")
            continue
        if is_first():
            report(options["network"], name, found, time.monotonic() - began)
    if missing:
        raise StyleganError("; ".join(missing))


def report(network: Path, name: str, results: dict[str, float], seconds: float) -> None:
    """Print the line of a metric, and append it to metric-<its result>.jsonl beside the snapshot."""
    from stylegan_stats import told_time

    line = {
        "results": results,
        "metric": name,
        "total_time": seconds,
        "total_time_str": told_time(seconds),
        "num_gpus": world_size(),
        "snapshot_pkl": network.name,
        "timestamp": time.time(),
    }
    click.echo(json.dumps(line))
    first = next(iter(results))
    stem = next((first.removesuffix(ending) for ending in ENDINGS if first.endswith(ending)), first)
    append_line(network.with_name(f"metric-{stem}.jsonl"), line)


@click.command(cls=Script)
@network_option
@click.option(
    "--metrics", default="fid50k_full", show_default=True, metavar="NAME,NAME", help="Which, with commas between them."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True),
    metavar="ZIP|DIR",
    show_default="as the snapshot tells",
    help="Real images.",
)
@click.option(
    "--mirror",
    type=bool,
    metavar="BOOL",
    show_default="as the snapshot tells",
    help="Whether real images also count mirrored; the _full metrics never do this.",
)
@click.option("--samples", type=click.IntRange(1), metavar="N", help="Generated images; the results' names tell it.")
@click.option("--batch", type=click.IntRange(1), show_default="64, on a CPU 8", metavar="N", help="Images at a time.")
@click.option("--fd-encoder", type=click.Path(path_type=Path), metavar="FILE", help="best.pt of segmentation_train.py.")
@click.option("--inception", type=click.Path(path_type=Path), metavar="FILE", help="Weights of the Inception of 2015.")
@click.option("--vgg", type=click.Path(path_type=Path), metavar="FILE", help="Weights of torchvision's VGG16.")
@click.option("--gpus", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="GPUs of this machine.")
@click.option("--verbose", type=bool, default=True, show_default=True, metavar="BOOL", help="Show progress.")
@device_option
def main(**options: Any) -> None:
    r"""Compute fidelity metrics of a trained generator.

    \b
    Reads   a network snapshot of train.py, or an official pickle; its dataset; weights that lie on this machine
    Writes  metric-NAME.jsonl beside the snapshot, a line for each call; features of the real images beside it

    \b
    Example  python stylegan3/calc_metrics.py --network network-snapshot-005000.safetensors
             python stylegan3/calc_metrics.py --network network-snapshot-005000.safetensors --metrics fd_encoder \
                 --fd-encoder segmentation/best.pt

    \b
    fid50k_full, kid50k_full, pr50k3_full                      against all real images
    fid50k, kid50k, pr50k3, is50k                              as older papers have them
    ppl2_wend, eqt50k_int, eqt50k_frac, eqr50k                 of the generator alone
    fd_encoder                                                 in the features of the project's own segmenter

    Nothing is downloaded. Where weights are missing, the line says what to put where.

    To resume, run the same command again. Features of the real images are not computed again.
    """
    from stylegan_metrics import check_metric_names
    from stylegan_snapshot import check_is_file

    options["metrics"] = check_metric_names([name.strip() for name in options["metrics"].split(",") if name.strip()])
    if not options["metrics"]:
        raise click.UsageError("--metrics names none; see --help for what there is.")
    check_is_file(options["network"])
    folder = options["network"].absolute().parent
    if not os.access(folder, os.W_OK):
        raise StyleganError(f"{folder} cannot be written, where results go; copy {options['network'].name} elsewhere")
    started = place_in_environment().world_size
    run_in_processes(measure, (options,), started if started > 1 else options["gpus"])


if __name__ == "__main__":
    main()
