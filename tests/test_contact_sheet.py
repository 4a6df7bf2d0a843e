import json
import os

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from aras.errors import UserError
from aras.legend import CLASS_NAMES, COLORS, NO_DATA, mask_image
from runs import contact_sheet, demo_summary

NAMES = [f"N52E012_090_{col:03d}" for col in range(5)]
CLASSES = {"Tree": 50, "Crop": 40, "Water": 10}


def metrics_of(f1: float) -> dict:
    rows = {name: {"f1": f1, "support": CLASSES.get(name, 0)} for name in CLASS_NAMES}
    absent = [name for name in CLASS_NAMES if name not in CLASSES]
    return {"accuracy": 0.7, "f1": f1, "iou": 0.4, "absent": absent, "classes": rows} | {
        "interval95": {name: [0.3, 0.8] for name in ("f1", "iou", "accuracy")},
        "blocks": {"count": 5, "source": "names"},
    }


@pytest.fixture
def demo(tmp_path):
    """What the stages before the figure leave: five patches, their predictions, scores and tables."""
    rng = np.random.default_rng(0)
    for folder in ("ARAS400k/test/images", "ARAS400k/test/masks", "predictions/masks", "segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    for name in NAMES:
        labels = rng.choice([0, 3, 6], (32, 32)).astype(np.uint8)
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(
            tmp_path / f"ARAS400k/test/images/{name}.png"
        )
        mask_image(labels).save(tmp_path / f"ARAS400k/test/masks/{name}.png")
        mask_image(np.roll(labels, 1)).save(tmp_path / f"predictions/masks/{name}.png")
    (tmp_path / "ARAS400k/class_percentages").mkdir()
    for split, count in (("train", 9), ("val", 3), ("test", 5)):
        (tmp_path / f"ARAS400k/class_percentages/{split}.csv").write_text("filename\n" + "name\n" * count)
    (tmp_path / "segmentation/run.json").write_text(json.dumps({"versions": {}, "device": "cpu", "commit": None}))
    (tmp_path / "segmentation/test_metrics.json").write_text(json.dumps(metrics_of(0.6)))
    sets = [{"name": name, "images": count} for name, count in (("train", 9), ("test", 5))]
    silhouettes = {"sets": sets, "pairs": [{"sets": ["train", "test"], "silhouette": -0.01234}]}
    streams = {"template": {"texts": {"captions": 5}, "grounding": {"f1": {"value": 0.9}, "hallucination": None}}}
    for path, told in (
        ("feature_maps/silhouette.json", silhouettes),
        ("captions/metrics/caption_metrics.json", {"streams": streams}),
    ):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(json.dumps(told))
    (tmp_path / "region.json").write_text(json.dumps({"region": "sample", "map": "WEAK MAP"}))
    (tmp_path / "seconds.tsv").write_text("sample_region\t4\nsegmentation_train\t90\n")
    return tmp_path


def draw(demo, *more):
    arguments = [
        *("--data", demo / "ARAS400k", "--predictions", demo / "predictions/masks", "--output", demo / "sheet.png"),
        *("--metrics", demo / "segmentation/test_metrics.json", "--region", demo / "region.json", *more),
    ]
    return CliRunner().invoke(contact_sheet.main, [str(argument) for argument in arguments])


def test_chosen_patches_show_each_class():
    shares = np.zeros((6, 7))
    shares[:4, 3] = 1  # four alike
    shares[4, [0, 6]] = 0.5
    shares[5, [3, 1]] = 0.5
    assert contact_sheet.choose(shares, 2) == [4, 5]
    assert contact_sheet.choose(shares, 3) == [0, 4, 5]
    assert contact_sheet.choose(shares, 99) == [0, 1, 2, 3, 4, 5]


def test_errors_are_where_labels_differ_and_known():
    truth = np.uint8([[0, 1, NO_DATA]])
    colors = contact_sheet.error_map(truth, np.uint8([[0, 2, 3]]))
    grey, error = contact_sheet.AGREEMENT, contact_sheet.ERROR
    assert [tuple(int(v) for v in color) for color in colors[0]] == [grey, error, grey]


def test_column_holds_image_mask_prediction_and_errors(demo):
    pairs = contact_sheet.find_pairs(demo / "ARAS400k", "test")
    pictures, right = contact_sheet.read_column(pairs, 2, demo / "predictions/masks")
    truth, prediction = pictures[1], pictures[2]
    assert [picture.shape for picture in pictures] == [(32, 32, 3)] * 4
    assert {tuple(color) for color in truth.reshape(-1, 3)} <= {tuple(color) for color in COLORS}
    same = (truth == prediction).all(axis=-1)
    assert right == pytest.approx(same.mean())
    assert (pictures[3][same] == contact_sheet.AGREEMENT).all()
    assert (pictures[3][~same] == contact_sheet.ERROR).all()


def test_figure_is_drawn_once_and_again_after_new_scores(demo):
    result = draw(demo, "--count", 4)
    assert result.exit_code == 0, result.output
    with Image.open(demo / "sheet.png") as figure:
        assert figure.size > (500, 500)
        assert len(figure.convert("RGB").getcolors(1 << 20)) > 50
    assert "there already" in draw(demo).output
    path = demo / "segmentation/test_metrics.json"
    (demo / "sheet.png").touch()
    seconds = (demo / "sheet.png").stat().st_mtime + 10
    os.utime(path, (seconds, seconds))
    assert "there already" not in draw(demo).output


def test_titles_call_the_map_weak_and_the_fake_world_fake(demo):
    metrics, region = demo / "segmentation/test_metrics.json", demo / "region.json"
    region.write_text(json.dumps({"region": "sample", "attribution": "contains data of others"}))
    first, second, third = contact_sheet.words_of("test", metrics, region)
    assert "weak map" in first
    assert second.startswith("All held-out pixels: accuracy 0.70, macro F1 0.60 over the 3 classes present.")
    assert third == "contains data of others"
    assert contact_sheet.words_of("val", metrics, region)[1] == ""  # those are the test split's scores
    region.write_text(json.dumps({"region": "fake"}))
    assert "FAKE" in contact_sheet.words_of("test", metrics, region)[0]


def test_missing_or_misfitting_prediction_is_one_line(demo):
    path = demo / f"predictions/masks/{NAMES[1]}.png"
    mask_image(np.zeros((8, 8), dtype=np.uint8)).save(path)
    result = draw(demo)
    assert result.exit_code == 1
    assert "is not of the size" in result.stderr
    path.unlink()
    result = draw(demo)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert f"{path} is missing" in result.stderr
    assert not (demo / "sheet.png").exists()


def write_gans(demo):
    """What the GANs' stages leave behind, as far as the summary tells it."""
    best = {"frechet": 1500.25, "agreement_miou": 0.4, "agreement_accuracy": 0.6, "diversity_levels": 5.5}
    marks = {"distance": "Fréchet", "masks": 3, "frechet_floor": 1400.0, "ceiling_miou": 0.5}
    for path, value in {
        "spade/result.json": {"images": 3000, "best": best},
        "spade/quality.json": marks,
        "stylegan/00000-old/training_options.json": {},
        "stylegan/00001-new/training_options.json": {},
        "stylegan/00001-new/training-state.json": {"images": 2008, "finished": True},
        "fidelity/fidelity.json": {"equal_n": 5, "floor": measured("train", 10), "sets": FAR},
        "selection/selection.json": {
            "images": 9,
            "selected": 4,
            "dropped": {"unsure": 5},
            "distance_to_target": {"before": 0.1, "after": 0.2},
            "key": "of no concern",
        },
    }.items():
        (demo / path).parent.mkdir(parents=True, exist_ok=True)
        (demo / path).write_text(json.dumps(value))
    (demo / "ARAS400k/synth/images").mkdir(parents=True)
    (demo / "ARAS400k/synth/images/000000.png").touch()


def measured(name, value):
    return {"name": name, "measures": {measure: {"value": value} for measure in demo_summary.ORDERED}}


FAR = {name: measured(name, value) for name, value in {"noise": 30, "synth": 20, "generated": 5}.items()}


def summarize(demo):
    write_gans(demo)
    return CliRunner().invoke(demo_summary.main, ["--demo", str(demo)])


def test_summary_tells_the_demo(demo):
    result = summarize(demo)
    assert result.exit_code == 0, result.output
    told = json.loads((demo / "summary.json").read_text())
    assert told["region"] == "sample"
    assert told["patches"] == {"train": 9, "val": 3, "test": 5}
    assert told["seconds"] == {"sample_region": 4, "segmentation_train": 90}
    assert told["scores"]["against"] == "WEAK MAP"
    assert set(told["scores"]["f1_of_class"]) == set(CLASSES)
    assert (told["scores"]["blocks"], told["scores"]["interval95"]["f1"]) == (5, [0.3, 0.8])
    assert told["feature_maps"] == {"images": {"train": 9, "test": 5}, "silhouettes": {"train and test": -0.0123}}
    only_f1 = {"captions": 5, "f1": 0.9, "hallucination": None, "percentage_error": None}
    assert told["captions"] == {"template": only_f1}
    assert told["conditional_gan"] == {
        "trained_images": 3000,
        "distance": "Fréchet",
        "masks": 3,
        "frechet": 1500.25,
        "agreement_miou": 0.4,
        "agreement_accuracy": 0.6,
        "diversity_levels": 5.5,
        "of_real_images": {"frechet_floor": 1400.0, "ceiling_miou": 0.5},
    }
    assert told["stylegan"] == {"trained_images": 2008, "drawn": 1}
    assert told["fidelity"]["order"]["spectrum"] == ["generated", "train", "synth", "noise"]
    assert told["fidelity"]["distances"]["spectrum"] == {"train": 10, "noise": 30, "synth": 20, "generated": 5}
    assert (told["selection"]["selected"], told["selection"]["dropped"]) == (4, {"unsure": 5})


def test_commonest_class_scores_little():
    told = demo_summary.scores_of_commonest([50, 0, 0, 40, 0, 0, 10])
    assert told["accuracy"] == 0.5
    # Precision 0.5 and recall 1 for one class of three, nothing for the others.
    assert told["f1"] == pytest.approx(2 / 3 / 3, abs=1e-4)


def test_demo_that_did_not_learn_fails_in_one_line(demo):
    (demo / "segmentation/test_metrics.json").write_text(json.dumps(metrics_of(demo_summary.LEAST_F1 - 0.01)))
    result = summarize(demo)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "did not learn" in result.stderr
    assert (demo / "summary.json").is_file()


def test_unreadable_mask_names_the_file(demo):
    path = demo / f"ARAS400k/test/masks/{NAMES[0]}.png"
    path.write_bytes(b"torn")
    with pytest.raises(UserError, match=NAMES[0]):
        contact_sheet.class_shares(contact_sheet.find_pairs(demo / "ARAS400k", "test"))
