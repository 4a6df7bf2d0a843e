"""The demo in one JSON file, and the judgement whether its segmenter learned.

The scores are those of the held-out patches. Beside them stand the scores of saying the commonest class everywhere,
which is what a segmenter that learned nothing amounts to.
"""

import sys
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from aras.command import Command
from aras.errors import UserError
from aras.files import read_json, write_json
from aras.legend import CLASS_NAMES
from aras.splits import SPLITS

LEAST_F1 = 0.45
"""Macro F1 over the classes present in the held-out patches, under which the demo fails.

Measured on the sample region: 0.58 to 0.63 in 16 trainings (6 seeds; 10 to 25 epochs), 0.57 without ImageNet weights,
0.12 untrained, 0.09 for the commonest class everywhere; 0.91 on the fake world. So 0.45 is far from what a learner
falls to and from what a non-learner reaches.
"""


def seconds_of_steps(path: Path) -> dict[str, int]:
    """Return the seconds that each step took when it was first run, in order, from the table that demo.sh keeps."""
    if not path.is_file():
        return {}
    rows = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines())
    return {name: int(seconds) for name, seconds in rows}


def patches_of_splits(data: Path) -> dict[str, int]:
    """Return how many patches each split has, from the tables of class percentages."""
    tables = {split: data / "class_percentages" / f"{split}.csv" for split in SPLITS}
    return {split: len(table.read_text(encoding="utf-8").splitlines()) - 1 for split, table in tables.items()}


def scores_of_commonest(supports: list[int]) -> dict[str, float]:
    """Return accuracy and macro F1 over present classes of saying the commonest class for every pixel.

    Args:
        supports: pixels of each class in the truth.
    """
    share = max(supports) / sum(supports)
    present = sum(support > 0 for support in supports)
    return {"accuracy": round(share, 4), "f1": round(2 * share / (1 + share) / present, 4)}


def feature_maps_told(path: Path) -> dict[str, Any]:
    """Return the images of each set and the silhouettes from `path` (silhouette.json)."""
    found = read_json(path)
    return {
        "images": {each["name"]: each["images"] for each in found["sets"]},
        "silhouettes": {" and ".join(pair["sets"]): round(pair["silhouette"], 4) for pair in found["pairs"]},
    }


def conditional_gan_told(folder: Path) -> dict[str, Any]:
    """Return what the conditional GAN's best weights are worth on held-out masks, beside real images, from `folder`."""
    result, marks = read_json(folder / "result.json"), read_json(folder / "quality.json")
    names = ("frechet", "agreement_miou", "agreement_accuracy", "diversity_levels")
    if result["best"] is None:
        raise UserError(
            f"{folder / 'result.json'} knows no measured weights; delete {folder} and run runs/demo.sh again"
        )
    return {
        "trained_images": result["images"],
        "distance": marks["distance"],
        "masks": marks["masks"],
        **{name: round(result["best"][name], 4) for name in names},
        "of_real_images": {name: round(marks[name], 4) for name in ("frechet_floor", "ceiling_miou")},
    }


def stylegan_told(folder: Path, drawn: Path) -> dict[str, Any]:
    """Return how many images the newest StyleGAN below `folder` was trained on, and how many it has `drawn`."""
    run = max(path.parent for path in folder.glob("*/training_options.json"))
    return {
        "trained_images": read_json(run / "training-state.json")["images"],
        "drawn": sum(1 for _ in drawn.glob("*.png")),
    }


ORDERED = ("frechet.encoder", "kernel.encoder", "spectrum", "histogram")
"""Measures in which real images should be nearest to held-out ones, then drawn ones, then noise."""


def fidelity_told(path: Path) -> dict[str, Any]:
    """Return how far each set is from the held-out images, and how the order came out, from `path` (fidelity.json).

    `order` has of each measure the names of all sets, the nearest first.
    """
    found = read_json(path)
    sets = {found["floor"]["name"]: found["floor"], **found["sets"]}
    distances = {
        measure: {name: told["measures"][measure]["value"] for name, told in sets.items()} for measure in ORDERED
    }
    return {
        "images_of_each_set": found["equal_n"],
        "distances": {
            measure: {name: float(f"{value:.4g}") for name, value in values.items()}
            for measure, values in distances.items()
        },
        "order": {measure: sorted(values, key=values.__getitem__) for measure, values in distances.items()},
    }


def selection_told(path: Path) -> dict[str, Any]:
    """Return how many drawn images were chosen, and why the others were not, from `path` (selection.json)."""
    found = read_json(path)
    return {name: found[name] for name in ("images", "selected", "dropped", "distance_to_target")}


def captions_told(path: Path) -> dict[str, dict[str, Any]]:
    """Return of each stream how many captions it has and how they fit the masks, from `path` (caption_metrics.json)."""
    names = ("f1", "hallucination", "percentage_error")
    return {
        stream: {"captions": found["texts"]["captions"]}
        | {name: (found["grounding"].get(name) or {}).get("value") for name in names}
        for stream, found in read_json(path)["streams"].items()
    }


def summarized(demo: Path) -> dict[str, Any]:
    """Return the content of summary.json from what the stages wrote below `demo`."""
    region, metrics = read_json(demo / "region.json"), read_json(demo / "segmentation/test_metrics.json")
    run = read_json(demo / "segmentation/run.json")
    classes, interval = metrics["classes"], metrics["interval95"] or {}
    return {
        **region,
        "patches": patches_of_splits(demo / "ARAS400k"),
        "scores": {
            "split": "test",
            "against": region["map"],
            "f1": round(metrics["f1"], 4),
            "iou": round(metrics["iou"], 4),
            "accuracy": round(metrics["accuracy"], 4),
            "interval95": {name: interval.get(name) for name in ("f1", "iou", "accuracy")},
            "blocks": metrics["blocks"]["count"],
            "absent": metrics["absent"],
            "f1_of_class": {name: round(classes[name]["f1"], 4) for name in CLASS_NAMES if classes[name]["support"]},
            "commonest_class_everywhere": scores_of_commonest([classes[name]["support"] for name in CLASS_NAMES]),
            "least_f1": LEAST_F1,
        },
        "conditional_gan": conditional_gan_told(demo / "spade"),
        "stylegan": stylegan_told(demo / "stylegan", demo / "ARAS400k/synth/images"),
        "feature_maps": feature_maps_told(demo / "feature_maps/silhouette.json"),
        "captions": captions_told(demo / "captions/metrics/caption_metrics.json"),
        "fidelity": fidelity_told(demo / "fidelity/fidelity.json"),
        "selection": selection_told(demo / "selection/selection.json"),
        "seconds": seconds_of_steps(demo / "seconds.tsv"),
        "versions": run["versions"],
        "device": run["device"],
        "commit": run["commit"],
    }


@click.command(cls=Command)
@click.option(
    "--demo",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo"),
    show_default=True,
    help="The folder that runs/demo.sh fills.",
)
def main(demo: Path) -> None:
    """Write the demo's summary; fail when its segmenter did not learn.

    Reads DEMO/region.json, ARAS400k, segmentation, spade, stylegan, feature_maps, captions, fidelity, selection and
    seconds.tsv. Writes DEMO/summary.json.

    Example: python runs/demo_summary.py --demo demo

    To resume, run the same command again.
    """
    summary = summarized(demo)
    write_json(demo / "summary.json", summary)
    scores = summary["scores"]
    click.echo(
        f"region: {summary['region']}  accuracy {scores['accuracy']:.3f}  macro F1 {scores['f1']:.3f} over the "
        f"{len(scores['f1_of_class'])} classes present, against: {scores['against']}"
    )
    if scores["f1"] < LEAST_F1:
        raise UserError(
            f"the segmenter did not learn: macro F1 {scores['f1']:.3f} on the held-out patches is under {LEAST_F1} "
            f"({demo / 'summary.json'}); delete {demo} and run runs/demo.sh again"
        )


if __name__ == "__main__":
    main()
