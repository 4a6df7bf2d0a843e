"""Stage 6: how a trained encoder sees sets of images: maps of its features, and how far apart the sets lie.

Each image becomes one vector, the mean over space of the encoder's last stage (for efficientnet-b7, 640 numbers). The
vectors of all sets are standardised together. t-SNE and UMAP lay them out on a plane; silhouettes of the vectors
themselves say whether the sets are apart (1), mixed (0) or misplaced (-1), so a synthetic set is good when its
silhouette against the real one is near 0 (arXiv 2603.09625, the feature maps of the Segformer's encoder).
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np

from aras.command import Command, Number, data_option, device_option, workers_option
from aras.errors import UserError
from aras.feature_maps.draws import ImageDraw, blocks_of_draws, draw_images, folders_given
from aras.feature_maps.embedding import FEWEST, read_map, tsne_map, umap_map, write_map
from aras.feature_maps.features import cache_key, extract_features, is_cached, load_all
from aras.feature_maps.neighbors import nearest_neighbors
from aras.feature_maps.outputs import METHODS, Outputs, check_not_foreign, read_scores
from aras.feature_maps.scatter import COLORS, Map, draw_map, draw_thumbnails
from aras.feature_maps.silhouette import all_scores, distance_sums
from aras.files import remove_parts, sole_writer, write_json, write_text
from aras.loading import LOADER_WORKERS
from aras.pairs import GENERATED, SUFFIX
from aras.rows import row_text
from aras.runs import FREE, begin_run, check_same_options
from aras.segmenter import (
    ARCHITECTURES,
    OWN_WEIGHTS,
    PUBLISHED_WEIGHTS,
    check_same_weights,
    digests_of,
    kind_of_weights,
    load_segmenter,
    weights_or_default,
)
from aras.training import choose_device, memory_told, share_cores, told_device

PUBLISHED_SETS = {"real": "train/images", "synthetic": "synth/images", "generated": f"train/{GENERATED}"}
FREE_OPTIONS = FREE | {"features_cache", "batch_size", "method", "thumbnails", "weights_sha256"}
PACKAGES = ("torch", "segmentation-models-pytorch", "timm", "numpy", "pillow", "openTSNE", "umap-learn", "matplotlib")


def published_sets(data: Path) -> dict[str, Path]:
    """Return the folders of the published comparison that the dataset `data` has, and say which it lacks."""
    found = {}
    for name, place in PUBLISHED_SETS.items():
        folder = data / place
        if folder.is_dir() and next(folder.glob("*" + SUFFIX), None):
            found[name] = folder
        else:
            click.echo(f"Leaves out {name}: there is no image in {folder}")
    return found


def check_count_of_sets(sets: dict[str, Path]) -> None:
    """Raise `UserError` unless there are sets to compare, and a colour for each."""
    if not 2 <= len(sets) <= len(COLORS):
        told = ", ".join(sets) or "none"
        raise UserError(
            f"2 to {len(COLORS)} sets are compared, and here are {len(sets)} ({told}); make what is missing, or name"
            " folders of images by --set NAME=DIR, once for each"
        )


def extract_all(draws: list[ImageDraw], keys: list[str], outputs: Outputs, options: dict[str, Any]) -> None:
    """Extract the features of the sets that are not in the cache.

    Raises:
        UserError: images failed; they are in failures.csv, and the others are kept.
    """
    paths = [outputs.features / f"{draw.name}.npz" for draw in draws]
    todo = [job for job in zip(draws, paths, keys, strict=True) if not is_cached(*job[1:])]
    failures_file = outputs.folder / "failures.csv"
    failures_file.unlink(missing_ok=True)
    if not todo:
        return
    import torch

    device = choose_device(options["device"])
    model: Any = load_segmenter(options["weights"], options["arch"], options["encoder"])
    model = model.to(device=device, memory_format=torch.channels_last)
    batch_size = options["batch_size"] or (64 if device.type == "cuda" else 8)  # more do not fit a CPU's caches
    failures = []
    for draw, path, key in todo:
        if path.exists():
            click.echo(f"{path} is of other images or weights, or torn: extracts the features of {draw.name} again")
        failed = extract_features(draw, model.encoder, path, key, batch_size, options["workers"], device)
        failures += [(draw.name, name + SUFFIX, reason) for name, reason in sorted(failed.items())]
    if failures:
        write_text(failures_file, "".join(map(row_text, [("set", "filename", "reason"), *failures])))
        raise UserError(f"{len(failures)} images could not be used, see {failures_file}; mend them and run this again")


def score_sets(
    features: np.ndarray, draws: list[ImageDraw], keys: list[str], options: dict[str, Any]
) -> dict[str, Any]:
    """Return the silhouettes of the sets, and what they are of, as silhouette.json has them."""
    sizes, names = [len(draw) for draw in draws], [draw.name for draw in draws]
    sums = distance_sums(features, sizes, choose_device(options["device"]))
    blocks = blocks_of_draws(draws)
    told = [
        {"name": draw.name, "folder": str(draw.folder), "images": len(draw), "key": key}
        for draw, key in zip(draws, keys, strict=True)
    ]
    about = {"sets": told, "features": features.shape[1], "blocks": len(np.unique(blocks))}
    return about | all_scores(sums, names, sizes, blocks, options["seed"])


def score_lines(scores: dict[str, Any]) -> list[str]:
    """Return the silhouettes in words, a line for all sets, and where there are more than two for every two."""

    def told(values: dict[str, Any], unit: str = "") -> str:
        error = values["standard_error"]
        return f"{values['silhouette']:.4f}" + ("" if error is None else f" ± {error:.4f}{unit}")

    lines = [f"silhouette of the features by set {told(scores['overall'], ' (standard error)')}"]
    if len(scores["pairs"]) > 1:
        lines += [f"{' and '.join(pair['sets'])} {told(pair)}" for pair in scores["pairs"]]
    return lines


def make_maps(methods: list[str], features: np.ndarray, options: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each of `methods` with its map (N, 2) of `features`; say when there are too few images for an option."""
    most = len(features) - 1
    perplexity, neighbors = min(options["perplexity"], most / 3), min(options["neighbors"], most)
    for method, option, taken in (("tsne", "perplexity", perplexity), ("umap", "neighbors", neighbors)):
        if method in methods and taken < options[option]:
            click.echo(f"--{option} {options[option]:g} is too much for {most + 1} images; takes {taken:.3g}")
    wanted = max(int(3 * perplexity) if "tsne" in methods else 0, neighbors - 1 if "umap" in methods else 0)
    nearest = nearest_neighbors(features, wanted, choose_device(options["device"]))
    for method in methods:
        click.echo(f"{METHODS[method]} of {len(features):,} images")
        if method == "tsne":
            points, divergence = tsne_map(features, *nearest, perplexity, options["seed"])
            click.echo(f"t-SNE ends at a KL divergence of {divergence:.4f}")
        else:
            points = umap_map(features, *nearest, neighbors, options["min_dist"], options["seed"])
        yield method, points


def draw_figures(draws: list[ImageDraw], scores: dict[str, Any], outputs: Outputs, options: dict[str, Any]) -> None:
    """Draw what is missing of the figures."""
    names, sizes = [draw.name for draw in draws], [len(draw) for draw in draws]
    images = [(draw, index) for draw in draws for index in range(len(draw))]
    lines = score_lines(scores)
    caption = "; ".join(lines) if len(lines) == 1 else f"{lines[0]}\n{'; '.join(lines[1:4])}"
    for method in options["method"]:
        found = Map(read_map(outputs.coordinates(method), sum(sizes)), names, sizes)
        title = f"{METHODS[method]} of the features of {options['encoder']}"
        if not outputs.figure(method).exists():
            draw_map(outputs.figure(method), found, title, caption, options["seed"])
        if options["thumbnails"] and not outputs.thumbnails(method).exists():
            draw_thumbnails(
                outputs.thumbnails(method), found, title, lambda point: images[point][0].image(images[point][1])
            )


def drop_stale(outputs: Outputs, draws: list[ImageDraw], keys: list[str]) -> None:
    """Delete an earlier run's scores and maps when they are not of these images."""
    before = read_scores(outputs.scores)["sets"] if outputs.scores.exists() else []
    if [(told["name"], told["key"]) for told in before] != [(d.name, key) for d, key in zip(draws, keys, strict=True)]:
        if before:
            click.echo("The images are not those of the earlier run: compares the sets again")
        outputs.drop()


def run(draws: list[ImageDraw], outputs: Outputs, options: dict[str, Any]) -> None:
    """Compare the sets, from wherever the outputs stand."""
    keys = [cache_key(options["weights_sha256"], options["encoder"], draw) for draw in draws]
    drop_stale(outputs, draws, keys)
    missing = [path for path in outputs.wanted(options) if not path.exists()]
    click.echo(f"Writes {', '.join(path.name for path in missing) or 'nothing: all is there'} in {outputs.folder}")
    if missing:
        share_cores()
        device = told_device(choose_device(options["device"]))
        begin_run(outputs.record, options, PACKAGES, device, FREE_OPTIONS)
    methods = [method for method in options["method"] if outputs.coordinates(method) in missing]
    if methods or outputs.scores in missing:
        extract_all(draws, keys, outputs, options)
        features = load_all(draws, outputs.features)
        with memory_told("use --device cpu"):
            if outputs.scores in missing:
                write_json(outputs.scores, score_sets(features, draws, keys, options))
            for method, points in make_maps(methods, features, options) if methods else ():
                named = ((draw.name, name + SUFFIX) for draw in draws for name in draw.names.tolist())
                write_map(outputs.coordinates(method), named, points)
    scores = read_scores(outputs.scores)
    draw_figures(draws, scores, outputs, options)
    click.echo("\n".join(score_lines(scores)))


@click.command(cls=Command)
@data_option
@click.option(
    "--set",
    multiple=True,
    metavar="NAME=DIR",
    help="A set and its folder of PNG images; once for each, in place of the dataset's.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path, dir_okay=False),
    show_default=f"{PUBLISHED_WEIGHTS}, else {OWN_WEIGHTS}",
    help="Trained segmenter: best.pt, a published .pth, or safetensors.",
)
@click.option(
    "--arch",
    type=click.Choice(ARCHITECTURES, case_sensitive=False),
    help="Its architecture; else from the run.json beside it, or its name.",
)
@click.option("--encoder", help="Its encoder; else from the run.json beside it, or its name.")
@click.option(
    "--outdir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("feature_maps"),
    show_default=True,
    help="Folder for all that is written.",
)
@click.option(
    "--features-cache",
    type=click.Path(path_type=Path, file_okay=False),
    show_default="OUTDIR/features",
    help="Folder for the features, which other runs can share.",
)
@click.option("--max-images", type=click.IntRange(1), default=50_000, show_default=True, help="At most, of each set.")
@click.option(
    "--method",
    type=click.Choice(list(METHODS)),
    multiple=True,
    default=list(METHODS),
    show_default=True,
    help="A map to make; given once for each, and both if it is left out.",
)
@click.option(
    "--perplexity",
    type=Number(1),
    default=30.0,
    show_default=True,
    help="Of t-SNE: about how many others each image is kept near to.",
)
@click.option(
    "--neighbors",
    type=click.IntRange(2),
    default=15,
    show_default=True,
    help="Of UMAP: how many others, itself counted, each image is kept near to.",
)
@click.option(
    "--min-dist",
    type=Number(0, 1),
    default=0.1,
    show_default=True,
    help="Of UMAP: the least distance of two points on the map.",
)
@click.option("--thumbnails", is_flag=True, help="Also draw maps with images on them.")
@click.option("--batch-size", type=click.IntRange(1), show_default="64 on a GPU, 8 on a CPU", help="Images at a time.")
@workers_option(LOADER_WORKERS)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=42,
    show_default=True,
    help="Everything random follows from it.",
)
@device_option
def main(**options: Any) -> None:
    r"""Map sets of images by the features of a trained encoder.

    \b
    Reads   ARAS400k/train/images, ARAS400k/synth/images, ARAS400k/train/generated (those that there are), weights
    Writes  feature_maps/tsne_comparison.png, umap_comparison.png
            feature_maps/tsne.csv, umap.csv: each image's place on the maps
            feature_maps/silhouette.json: how far apart the sets are, with standard errors
            feature_maps/features/<set>.npz: `features` (N, D) float32 and `names`
            feature_maps/tsne_thumbnails.png, umap_thumbnails.png with --thumbnails
            feature_maps/failures.csv when an image could not be used; the exit code is then 1

    \b
    Example  python segformer_vis.py
             python segformer_vis.py --set train=ARAS400k/train/images --set test=ARAS400k/test/images \
                 --outdir train_and_test

    Of a folder with more than --max-images as many are drawn by --seed, from folders with the same names the same.

    To resume, run the same command again. A set whose images changed is extracted again, and the maps and scores are
    made anew.
    """
    options["method"] = tuple(dict.fromkeys(options["method"]))
    options["weights"] = weights = weights_or_default(options["weights"])
    options["weights_sha256"] = digests_of([weights])
    options["arch"], options["encoder"] = kind_of_weights(weights, options["arch"], options["encoder"])
    sets = folders_given(options["set"], "set") if options["set"] else published_sets(options["data"])
    check_count_of_sets(sets)
    draws = [draw_images(name, folder, options["max_images"], options["seed"]) for name, folder in sets.items()]
    if sum(map(len, draws)) < FEWEST:
        raise UserError(f"{sum(map(len, draws))} images are too few for a map; give at least {FEWEST}")
    for draw in draws:
        click.echo(f"Reads {draw.name}: {len(draw):,} images of {draw.folder}")
    outputs = Outputs(options["outdir"], options["features_cache"] or options["outdir"] / "features")
    check_not_foreign(outputs)
    with ExitStack() as stack:
        for folder in {outputs.folder.resolve(), outputs.features.resolve()}:
            stack.enter_context(sole_writer(folder))
        if outputs.record.exists():
            check_same_options(outputs.record, options, FREE_OPTIONS)
            remedy = f"name another --outdir, or delete {outputs.folder}"
            check_same_weights(outputs.record, [weights], options["weights_sha256"], outputs.folder, remedy)
        remove_parts(outputs.folder)
        remove_parts(outputs.features)
        run(draws, outputs, options)


if __name__ == "__main__":
    main()
