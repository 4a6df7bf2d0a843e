"""One figure of held-out patches: image, mask, prediction and errors, with legend and scores.

The patches are chosen from the masks alone, before any prediction is read, so that each class is shown about equally
often; they are neither the best nor the worst. Errors are vermilion on grey, which colour-blind readers tell apart
(Wong 2011, Nature Methods 8, 441).
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from aras.command import Command, data_option
from aras.errors import UserError
from aras.files import read_json, sole_writer, whole_file
from aras.legend import CLASS_NAMES, COLORS, NO_DATA, NUM_CLASSES, read_mask
from aras.pairs import Pairs, find_pairs, read_image
from aras.showing import choose, class_shares

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROWS = ("Image", "Mask", "Prediction", "Errors")
ERROR, AGREEMENT = (213, 94, 0), (224, 224, 224)  # vermilion and grey


def error_map(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) uint8: `ERROR` where labels `prediction` (H, W) is not `truth`, else `AGREEMENT`."""
    wrong = (truth != prediction) & (truth != NO_DATA)
    return np.where(wrong[..., None], ERROR, AGREEMENT).astype(np.uint8)


def read_column(pairs: Pairs, index: int, predictions: Path) -> tuple[list[np.ndarray], float]:
    """Return the four pictures (H, W, 3) uint8 of patch `index`, and the share of its pixels predicted right.

    Raises:
        UserError: the prediction is missing or not of the mask's size.
    """
    image, truth = read_image(pairs.image(index)), read_mask(pairs.mask(index))
    path = predictions / pairs.image(index).name
    if not path.is_file():
        raise UserError(f"{path} is missing; run segmentation_predict.py on {pairs.images}, or check --predictions")
    prediction = read_mask(path)
    if prediction.shape != truth.shape:
        raise UserError(f"{path} is not of the size of {pairs.mask(index)}; predict {pairs.images} again")
    right = float((prediction == truth)[truth != NO_DATA].mean())
    return [image, COLORS[truth], COLORS[prediction], error_map(truth, prediction)], right


def score_line(metrics: dict[str, Any]) -> str:
    """Return the overall scores in words from the content of test_metrics.json."""
    present = NUM_CLASSES - len(metrics["absent"])
    return (
        f"All held-out pixels: accuracy {metrics['accuracy']:.2f}, macro F1 {metrics['f1']:.2f} over the {present} "
        "classes present. Patches chosen by their masks alone, for a mix of classes."
    )


def draw(
    columns: list[list[np.ndarray]], names: list[str], rights: list[float], words: tuple[str, str, str]
) -> "Figure":
    """Return the figure: a column of four pictures (H, W, 3) for each of `names`.

    `words` are the title, the scores, which go above, and the attribution, which goes below the legend.
    """
    from matplotlib.figure import Figure

    width, height = 1.05 * len(columns) + 0.9, 1.05 * len(ROWS) + 1.47  # inches
    figure = Figure(figsize=(width, height), dpi=200)
    axes = figure.subplots(len(ROWS), len(columns), squeeze=False)
    left, right, top, bottom = 0.85 / width, 1 - 0.05 / width, 1 - 0.8 / height, 0.64 / height
    figure.subplots_adjust(left=left, right=right, top=top, bottom=bottom, wspace=0.06, hspace=0.06)
    for col, pictures in enumerate(columns):
        for row, picture in enumerate(pictures):
            show(axes[row, col], picture)
        tile, _, place = names[col].partition("_")
        axes[0, col].set_title(f"{tile}\n{place}", fontsize=6.5, pad=3)
        axes[-1, col].set_xlabel(f"{rights[col]:.0%} right", fontsize=7, labelpad=3)
    for row, name in enumerate(ROWS):
        axes[row, 0].set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center", labelpad=6)
    figure.text(0.5, 1 - 0.1 / height, words[0], ha="center", va="top", fontsize=10, fontweight="bold")
    figure.text(0.5, 1 - 0.31 / height, words[1], ha="center", va="top", fontsize=8)
    figure.text(0.5, 0.05 / height, words[2], ha="center", va="bottom", fontsize=5.5, color="0.35")
    draw_legend(figure, columns, 0.14 / height)
    return figure


def show(axes: "Axes", picture: np.ndarray) -> None:
    """Draw `picture` (H, W, 3) without smoothing, in a thin frame."""
    axes.imshow(picture, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(linewidth=0.4, color="0.4")


def draw_legend(figure: "Figure", columns: list[list[np.ndarray]], bottom: float) -> None:
    """Draw the classes that occur in the masks and predictions shown, and the two colours of the error maps."""
    from matplotlib.patches import Patch

    seen = {
        tuple(color) for pictures in columns for pic in pictures[1:3] for color in np.unique(pic.reshape(-1, 3), axis=0)
    }
    entries = [(name, tuple(color)) for name, color in zip(CLASS_NAMES, COLORS, strict=True) if tuple(color) in seen]
    entries += [("agrees with the mask", AGREEMENT), ("error", ERROR)]
    handles = [
        Patch(facecolor="#{:02x}{:02x}{:02x}".format(*color), edgecolor="0.4", linewidth=0.4, label=name)
        for name, color in entries
    ]
    figure.legend(
        handles=handles, loc="lower center", ncol=len(handles), frameon=False, fontsize=7.5, handlelength=1.1,
        handleheight=1.1, columnspacing=1.2, handletextpad=0.5, bbox_to_anchor=(0.5, bottom),
    )  # fmt: skip


def words_of(split: str, metrics: Path, region: Path) -> tuple[str, str, str]:
    """Return the figure's title, which says what kind of map it is, the test split's scores, and the attribution."""
    told = read_json(region) if region.is_file() else {"region": "your data", "attribution": ""}
    against = {
        "sample": "real Sentinel-2 pixels, scored against a weak map (OpenStreetMap and spectral rules)",
        "fake": "the FAKE world of the tests, no real pixels",
    }.get(told["region"], "scored against its masks")
    scores = score_line(read_json(metrics)) if split == "test" else ""
    return f"Held-out patches ({split}): {against}", scores, told.get("attribution", "")


@click.command(cls=Command)
@data_option
@click.option("--split", default="test", show_default=True, help="The split that the patches are of.")
@click.option(
    "--predictions",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder of predicted masks, named as the images.",
)
@click.option(
    "--metrics",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("demo/segmentation/test_metrics.json"),
    show_default=True,
    help="The scores of segmentation_train.py.",
)
@click.option(
    "--region",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("demo/region.json"),
    show_default=True,
    help="What runs/sample_region.py made.",
)
@click.option("--count", type=click.IntRange(1), default=9, show_default=True, help="Patches to show.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("demo/contact_sheet.png"),
    show_default=True,
    help="The figure to write.",
)
def main(data: Path, split: str, predictions: Path, metrics: Path, region: Path, count: int, output: Path) -> None:
    """Draw held-out patches beside what was predicted for them.

    Reads DATA/SPLIT/{images,masks}, predicted masks, and the scores. Writes one PNG.

    Example: python runs/contact_sheet.py --data demo/ARAS400k --predictions demo/predictions/masks

    To resume, run the same command again; a figure newer than scores and predictions is left alone.
    """
    sources = (metrics, predictions)
    if output.is_file() and all(s.exists() and output.stat().st_mtime >= s.stat().st_mtime for s in sources):
        click.echo(f"{output} is there already")
        return
    pairs = find_pairs(data, split)
    words = words_of(split, metrics, region)
    chosen = choose(class_shares(pairs), count)
    columns, rights = zip(*(read_column(pairs, index, predictions) for index in chosen), strict=True)
    with sole_writer(output, is_file=True), whole_file(output) as part:
        draw(list(columns), [str(pairs.names[i]) for i in chosen], list(rights), words).savefig(part, format="png")
    click.echo(f"{output}: {len(chosen)} patches of {data / split}")


if __name__ == "__main__":
    main()
