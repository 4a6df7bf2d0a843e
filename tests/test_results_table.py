"""The paper's tables from files as the stages write them: what is recognised, averaged, compared and marked."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from tiny_dataset import make_dataset
from tiny_training import ENCODER, train

from aras.confusion import scores
from aras.results.published import published
from aras.results.statistics import estimate, holm, paired_test
from results_table import main

PAPER = published()["segmentation"]
MODELS = PAPER["models"]
COUNTS = PAPER["images"]
SETTING = PAPER["setting"]
SETS = {
    "real": ("train",),
    "synth": ("synth",),
    "real_synth": ("train", "synth"),
    "real_conditional": ("train", "generated"),
    "real_both": ("train", "synth", "generated"),
}


def write_training(folder, f1=0.75, pixels=None, tested=None, **options):
    """Write run.json and test_metrics.json of a finished training of the paper's setting, but for what is given."""
    folder.mkdir(parents=True)
    options = SETTING | {"data": "nowhere", "arch": "Segformer", "train": ["train"], "seed": 0, "limit": None} | options
    options["train"] = list(options["train"])
    pixels = pixels or PAPER["test"]["pixels"]
    matrix = np.full((7, 7), pixels // 49)
    matrix[0, 0] += pixels - matrix.sum()
    found = scores(matrix) | {"images": PAPER["test"]["images"], "epochs": 20, "f1": f1, "iou": f1 - 0.1}
    found |= {"trained_on": {name: COUNTS[name] for name in options["train"]}} | (tested or {})
    run = {
        "options": options,
        "started": f"2026-11-23T00:00:{options['seed']:02}",
    }
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "test_metrics.json").write_text(json.dumps(found))
    return folder


def tables(run, folder, *more, code=0):
    """Run the script; return its tables by name, and click's result."""
    result = run(main, folder, "--outdir", folder / "results", *more)
    assert result.exit_code == code, result.output
    made = json.loads((folder / "results" / "results.json").read_text())
    return {table["name"]: table for table in made["tables"]}, result


def cell(table, row, column):
    """Return the cell of `table` with these headings."""
    cells = next(one["cells"] for one in table["rows"] if one["label"] == row)
    return cells[table["columns"].index(column)]


def write_grid(folder, seeds=(0, 1, 2), kinds=tuple(SETS)):
    """Write all trainings of the paper, a little beside its scores; return F1 in percent by kind, model and seed."""
    rng = np.random.default_rng(0)
    values = {}
    for kind in kinds:
        for name, arch in MODELS.items():
            middle = PAPER["f1"][name].get(kind, PAPER["f1"]["mean"][kind])
            for seed in seeds:
                f1 = values[kind, name, seed] = round(middle + rng.normal(0, 0.2), 6)
                write_training(
                    folder / f"{len(values)}", f1 / 100, arch=arch, train=SETS[kind], seed=seed
                )  # folders without meaning
    return values


# ------------------------------------------------------------------------------------------------ published, statistics


def test_the_published_means_are_those_of_the_published_models():
    """Six models of each score: what was copied fits together to the last digit."""
    for score in ("f1", "iou"):
        for column in ("real", "synth", "real_synth"):
            each = [PAPER[score][name][column] for name in MODELS]
            assert np.mean(each) == pytest.approx(PAPER[score]["mean"][column], abs=0.0101), (score, column)
    streams = published()["captions"]["streams"]
    every = published()["captions"]["all"]["redundancy"]
    assert np.mean([one["redundancy"] for one in streams]) == pytest.approx(every, abs=0.011)
    assert PAPER["test"]["pixels"] == PAPER["test"]["images"] * 256**2


def test_estimates_tests_and_their_correction_are_those_of_textbooks():
    found = estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.count) == (2, 3)
    assert found.margin == pytest.approx(4.302652730 / np.sqrt(3))  # t of 2 degrees of freedom
    assert estimate([5.0]).margin is None
    # Student's own example (Biometrika 6, 1908): hours of sleep gained by two drugs.
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    sleep = paired_test(list(zip(first, second, strict=True)))
    assert sleep.difference.mean == pytest.approx(1.58)
    assert sleep.t == pytest.approx(0.00283, abs=1e-5)
    assert sleep.wilcoxon == pytest.approx(2 / 2**9)  # one of the ten does not differ, the others all go one way
    assert paired_test([(1, 2), (3, 4)]).t is None  # no spread
    assert paired_test([(1, 1), (3, 3)]).wilcoxon == 1
    assert paired_test([(1, 2)]).wilcoxon is None
    assert holm([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx([0.03, 0.06, None, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


# --------------------------------------------------------------------------------------------------------- segmentation


def test_the_whole_paper_stands_beside_ours(tmp_path, run):
    values = write_grid(tmp_path)
    made, result = tables(run, tmp_path)
    table = made["segmentation_f1"]
    for name in MODELS:
        found = estimate(values["real_synth", name, seed] for seed in (0, 1, 2))
        assert cell(table, name, "Real + synthetic 300k") == {
            "ours": f"{found.mean:.2f} ± {found.margin:.2f}",
            "paper": f"{PAPER['f1'][name]['real_synth']:.2f}",
            "state": "done",
        }
    means = [np.mean([values["real", name, seed] for name in MODELS]) for seed in (0, 1, 2)]
    mean = estimate(means)
    assert cell(table, "mean", "Real")["ours"] == f"{mean.mean:.2f} ± {mean.margin:.2f}"
    assert cell(table, "mean", "Synthetic 100k") == {"ours": "", "paper": "73.16", "state": "not run"}
    assert cell(made["segmentation_iou"], "FPN", "Real")["paper"] == "64.92"
    assert cell(made["segmentation_classes"], "Shrub", "Real")["paper"] == "46.82"
    assert cell(made["segmentation_classes"], "Shrub", "Real")["state"] == "done"
    assert "† not comparable" in result.output
    assert "77.09)" in result.output
    assert not [name for name in made if name.endswith("_1")]


def test_training_data_are_compared_pair_by_pair(tmp_path, run):
    from scipy.stats import ttest_rel, wilcoxon

    values = write_grid(tmp_path)
    made, _ = tables(run, tmp_path)
    table = made["comparisons"]
    tested = {"synth": 0, "real_synth": 0, "real_conditional": 0, "real_both": 0}
    for kind in tested:
        ours, base = ([values[one, name, seed] for name in MODELS for seed in (0, 1, 2)] for one in (kind, "real"))
        tested[kind] = (ttest_rel(ours, base).pvalue, wilcoxon(ours, base).pvalue)
    row = "Real + synthetic 300k – Real"
    difference = estimate(values["real_synth", n, s] - values["real", n, s] for n in MODELS for s in (0, 1, 2))
    assert cell(table, row, "difference") == {
        "ours": f"+{difference.mean:.2f} ± {difference.margin:.2f}",
        "paper": "+1.17",
        "state": "done",
    }
    assert cell(table, row, "pairs")["ours"] == "18"
    assert cell(table, row, "models better")["ours"] == "6 of 6"
    further = [
        [values[one, name, seed] for name in MODELS for seed in (0, 1, 2)]
        for one in ("real_both", "real_conditional", "real_synth")
    ]
    ps = [p for p, _ in tested.values()] + [ttest_rel(one, further[2]).pvalue for one in further[:2]]
    corrected = holm(ps)[list(tested).index("real_both")]
    told = cell(table, "Real + both – Real", "p, t")["ours"]
    assert told == ("< 0.001" if corrected < 0.001 else f"{corrected:.3f}")
    assert cell(table, "Synthetic 100k – Real", "difference")["state"] == "not run"
    assert any("Holm" in note and "6 comparisons" in note for note in table["notes"])


def test_one_pair_is_told_and_not_tested(tmp_path, run):
    for kind in ("real", "real_synth"):
        write_training(tmp_path / kind, 0.7 if kind == "real" else 0.72, train=SETS[kind])
    made, _ = tables(run, tmp_path)
    row = "Real + synthetic 300k – Real"
    assert cell(made["comparisons"], row, "difference") == {
        **{"ours": "+2.00", "paper": "+1.17", "state": "not comparable"}  # one of six models
    }
    assert cell(made["comparisons"], row, "p, t")["ours"] == "one pair: no test"
    assert cell(made["segmentation_f1"], "Segformer", "Real")["ours"] == "70.00"
    assert cell(made["segmentation_f1"], "mean", "Real")["state"] == "not run"


def test_a_run_is_what_its_run_json_says_whatever_its_folder_is_called(tmp_path, run):
    write_training(tmp_path / "real" / "Segformer" / "seed_0", 0.6, arch="FPN", train=["synth", "train"], seed=7)
    result = run(main, tmp_path, "--dry-run", "--outdir", tmp_path / "results")
    assert result.exit_code == 0
    assert "seed_0: FPN, Real + synthetic, seed 7, F1 60.00; the paper's setting, so far" in result.output
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "change, told",
    [
        ({"limit": 100}, "limit 100"),
        ({"encoder": "tu-tf_efficientnet_lite0"}, "encoder tu-tf_efficientnet_lite0"),
        ({"mix": "1:2", "train": ["train", "synth"]}, "mix 1:2"),
        ({"encoder_weights": "demo/lite0.safetensors"}, "encoder weights lite0.safetensors"),
        ({"tta": True}, "tta"),
        ({"tested": {"epochs": 40}}, "epochs 40"),
        ({"pixels": 10_024 * 128**2}, "10,024 test images of 16,384 pixels"),
    ],
)
def test_other_settings_are_never_averaged_with_the_papers(tmp_path, run, change, told):
    write_training(tmp_path / "a", 0.7)
    write_training(tmp_path / "b", 0.5, **{"seed": 1} | change)
    made, _ = tables(run, tmp_path)
    assert cell(made["segmentation_f1"], "Segformer", "Real")["ours"] == "70.00"
    other = made["segmentation_f1_1"]
    assert other["rows"][0]["cells"][0]["ours"] == "50.00"
    assert other["rows"][0]["cells"][0]["state"] == "not comparable"
    assert f"Not comparable with the paper: {told}." in other["notes"]


def test_own_splits_and_other_numbers_of_images_do_not_compare(tmp_path, run):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "run.json").write_text('{"options": {"fractions": [0.8, 0.1, 0.1]}}')
    write_training(tmp_path / "a", data=str(tmp_path / "data"))
    write_training(tmp_path / "b", train=["train", "synth"], tested={"trained_on": {"train": 80_192, "synth": 250_000}})
    made, _ = tables(run, tmp_path)
    assert "Not comparable with the paper: splits of dataset_creator.py." in made["segmentation_f1_1"]["notes"]
    assert cell(made["segmentation_f1"], "Segformer", "Real + synthetic 300k")["state"] == "not comparable"
    assert any("synthetic 250,000" in note for note in made["segmentation_f1"]["notes"])
    assert cell(made["segmentation_f1"], "Segformer", "Real")["state"] == "not run"


def test_trainings_on_other_numbers_of_images_are_never_averaged(tmp_path, run):
    """The published numbers are the table's; others are columns of their own, and their differences do not compare."""
    fewer = {"trained_on": {"train": 80_192, "synth": 250_000}}
    for seed, tested in ((0, fewer), (1, fewer), (2, {})):
        write_training(tmp_path / f"{seed}", 0.7 + seed / 100, train=SETS["real_synth"], seed=seed, tested=tested)
    write_training(tmp_path / "again", 0.9, train=SETS["real_synth"])  # seed 0, on all images
    made, _ = tables(run, tmp_path)
    table = made["segmentation_f1"]
    assert cell(table, "Segformer", "Real + synthetic 300k")["ours"].startswith("81.00 ±")
    assert cell(table, "Segformer", "Real + synthetic (real 80,192, synthetic 250,000)")["ours"].startswith("70.50 ±")
    for n, arch in enumerate(MODELS.values()):
        for seed in (0, 1):
            write_training(tmp_path / "six" / f"{n}{seed}", 0.7 + seed / 100, arch=arch, seed=seed)
            more = {"train": SETS["real_synth"], "tested": fewer, "seed": seed}
            write_training(tmp_path / "six" / f"{n}{seed}_fewer", 0.75, arch=arch, **more)
    (tmp_path / "six").rename(tmp_path / "six models")
    table = tables(run, tmp_path / "six models")[0]["comparisons"]
    found = cell(table, "Real + synthetic 300k – Real", "difference")
    assert (found["ours"][:5], found["paper"], found["state"]) == ("+4.50", "+1.17", "not comparable")


def test_two_test_splits_of_one_size_are_not_averaged(tmp_path, run):
    classes = scores(np.diag([7, 1, 1, 1, 1, 1, 1]))["classes"]
    for name, f1, more in (("a", 0.7, {}), ("b", 0.72, {}), ("c", 0.5, {"tested": {"classes": classes}})):
        write_training(tmp_path / name, f1, seed=ord(name), **more)
    made, _ = tables(run, tmp_path)
    assert cell(made["segmentation_f1"], "Segformer", "Real")["ours"].startswith("71.00 ±")
    assert made["segmentation_f1_1"]["notes"][0] == "Not comparable with the paper: another test split."


def test_parts_of_a_set_are_columns_of_their_own_but_the_papers(tmp_path, run):
    chosen = {"train": ["train", "synth"], "tested": {"trained_on": {"train": 80_192, "synth": 90_000}}}
    for seed, digest in enumerate(("aaaaaa", "bbbbbb")):
        lists = {"only": ["synth=selection/selected.txt"], "only_sha256": f"synth {digest}"}
        write_training(tmp_path / digest, 0.7 + seed / 100, seed=seed, **chosen, **lists)
    first = {"only": ["synth=synth_subset.txt"], "only_sha256": "synth cccccc", "train": ["synth"]}
    write_training(tmp_path / "subset", 0.73, tested={"trained_on": {"synth": 100_000}}, **first)
    made, _ = tables(run, tmp_path)
    table = made["segmentation_f1"]
    assert cell(table, "Segformer", "Synthetic 100k")["ours"] == "73.00"
    parts = [column for column in table["columns"] if "selected, 90,000" in column]
    assert sorted(cell(table, "Segformer", part)["ours"] for part in parts) == ["70.00", "71.00"]
    assert len(set(parts)) == 2
    assert made["segmentation_classes"]["notes"][0] == "Ours are means over Segformer."
    write_training(tmp_path / "other", 0.6, arch="FPN")
    made, _ = tables(run, tmp_path)
    assert made["segmentation_classes"]["notes"][0] == "No model was run on all of these."  # Segformer was not on Real
    write_training(tmp_path / "water", arch="FPN", train=["synth"])
    write_training(tmp_path / "part", arch="Unet", seed=9, **chosen, only=["synth=few.txt"], only_sha256="synth dddddd")
    for folder in ("aaaaaa", "bbbbbb", "subset"):
        (tmp_path / folder / "test_metrics.json").unlink()
    table = tables(run, tmp_path)[0]["segmentation_classes"]
    assert cell(table, "Tree", "Real + synthetic (few, 90,000)")["state"] == "not run"  # by FPN, of which the means are
    assert cell(table, "Tree", "Synthetic 300k")["state"] == "done"


def test_the_same_training_counts_once(tmp_path, run):
    write_training(tmp_path / "a", 0.7)
    write_training(tmp_path / "copy", 0.7)
    made, result = tables(run, tmp_path)
    assert cell(made["segmentation_f1"], "Segformer", "Real")["ours"] == "70.00"
    assert "is the same training as" in result.output
    write_training(tmp_path / "z", 0.8)
    _, result = tables(run, tmp_path, code=1)
    assert "are the same training with other scores" in result.stderr


def test_what_cannot_be_used_is_named_and_the_rest_is_there(tmp_path, run):
    write_training(tmp_path / "good", 0.7)
    (write_training(tmp_path / "torn") / "test_metrics.json").write_text('{"f1": 0.7, "io')
    (write_training(tmp_path / "lone") / "run.json").unlink()
    (write_training(tmp_path / "gan") / "run.json").write_text('{"options": {"recipe": "unet-spade"}}')
    (write_training(tmp_path / "list") / "test_metrics.json").write_text("[1]")
    write_training(tmp_path / "nan", tested={"f1": float("nan")})
    write_training(tmp_path / "unknown", tested={"classes": {}})
    (write_training(tmp_path / "unfinished") / "test_metrics.json").unlink()
    write_training(tmp_path / "infinite", tested={"epochs": float("inf")})
    for name in ("fidelity", "caption_metrics", "silhouette"):
        (tmp_path / f"{name}.json").write_text('{"pairs": 3}')
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "silhouette.json").write_text('{"pairs": [], "overall": {"silhouette": "high"}}')
    made, result = tables(run, tmp_path, code=1)
    assert cell(made["segmentation_f1"], "Segformer", "Real")["ours"] == "70.00"
    told = [line for line in result.stderr.splitlines() if line.startswith("Not used")]
    for name in ("torn", "lone", "gan", "list", "nan", "unknown", "infinite"):
        assert sum(f"/{name}/" in line for line in told) == 1, name
    for name in ("fidelity.json", "caption_metrics.json", "maps/silhouette.json"):
        assert sum(f"/{name}" in line for line in told) == 1, name
    assert len(told) == 11
    assert result.stderr.splitlines()[-1].startswith("Error: 11 files could not be used")
    assert "unfinished is a training that is not finished" in result.output


def test_folders_that_are_not_there_are_one_line(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "none of paper, segmentation" in run(main).stderr
    result = run(main, "gone")
    assert (result.exit_code, result.stderr) == (1, "Error: gone is not a folder; name one that holds runs\n")
    write_training(tmp_path / "segmentation")
    assert run(main).exit_code == 0
    assert Path("results/tables.tex").exists()


def test_runs_behind_links_are_found_once(tmp_path, run):
    write_training(tmp_path / "elsewhere" / "run", 0.7)
    (tmp_path / "runs").mkdir()
    for name in ("one", "two"):
        (tmp_path / "runs" / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "runs")
    made, result = tables(run, tmp_path / "runs")
    assert cell(made["segmentation_f1"], "Segformer", "Real")["ours"] == "70.00"
    assert "is the same training" not in result.output


def test_a_real_training_is_read(tmp_path, run):
    """Of a tiny dataset, as the trainer writes it: recognised, with what it was trained on, and not comparable."""
    data = make_dataset(tmp_path / "ARAS400k", train=4, val=2, test=2, synth=3)
    (tmp_path / "names.txt").write_text("N41E031_000_000\nN41E031_000_002\n")
    more = ("--train", "train", "--train", "synth", "--only", f"synth={tmp_path / 'names.txt'}", "--epochs", 1)
    assert train(data, tmp_path / "run", *more).exit_code == 0
    made, _ = tables(run, tmp_path)
    table = made["segmentation_f1_1"]
    assert table["columns"] == ["Real + synthetic (names, 2)"]
    found = json.loads((tmp_path / "run" / "test_metrics.json").read_text())
    assert found["trained_on"] == {"train": 4, "synth": 2}
    assert cell(table, "FPN", table["columns"][0])["ours"] == f"{100 * found['f1']:.2f}"
    assert f"encoder {ENCODER}" in table["notes"][0]


# ---------------------------------------------------------------------------------------------- fidelity, captions


def fidelity(distance):
    def measures(value):
        return {
            "frechet.inception": {"value": value, "low": value - 1, "high": value + 1, "n": 10_024},
            "recall.inception": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10_024},
        }

    return {
        "reference": {"name": "test", "folder": "x", "images": 10_024},
        "equal_n": 10_024,
        "spaces": {"inception": {"distance": distance, "width": 2048}},
        "sets": {
            "synth": {
                "folder": "x",
                "images": 300_000,
                "measures": measures(17.5),
                "left_out": {"adjacency": "why_not"},
            },
            "generated": {"folder": "x", "images": 80_192, "measures": measures(70)},
        },
        "floor": {"name": "train", "measures": measures(2.1)},
        "measures": {
            "frechet.inception": {"heading": "Fréchet distance", "better": "lower", "unit": ""},
            "recall.inception": {"heading": "Recall", "better": "higher", "unit": ""},
        },
    }


def test_only_fid_stands_beside_fid(tmp_path, run):
    (tmp_path / "fidelity.json").write_text(json.dumps(fidelity("FID")))
    made, _ = tables(run, tmp_path)
    table = made["fidelity"]
    assert table["columns"] == ["train (floor)", "synth", "generated"]
    assert cell(table, "FID ↓", "synth") == {"ours": "17.5 [16.5, 18.5]", "paper": "16.7–16.9", "state": "done"}
    assert cell(table, "FID ↓", "train (floor)")["paper"] == "2.09"
    assert cell(table, "Recall (inception) ↑", "generated") == {"ours": "0.5 [0.4, 0.6]", "paper": "", "state": "done"}
    assert "synth: no adjacency, as why_not." in table["notes"]
    fewer = fidelity("FID") | {"equal_n": 1000}
    (tmp_path / "fidelity.json").write_text(json.dumps(fewer))
    table = tables(run, tmp_path)[0]["fidelity"]
    assert cell(table, "FID ↓", "synth")["state"] == "not comparable"
    assert "Not comparable with the paper: 1,000 images." in table["notes"]
    turned = fidelity("FID") | {"floor": None}
    turned["spaces"]["inception"]["symmetries"] = 8
    (tmp_path / "fidelity.json").write_text(json.dumps(turned))
    table = tables(run, tmp_path)[0]["fidelity"]
    assert table["columns"] == ["synth", "generated"]
    assert cell(table, "FID, mean of 8 symmetries ↓", "synth")["paper"] == ""
    (tmp_path / "fidelity.json").write_text(
        json.dumps(fidelity("Fréchet distance (Inception, other weights than FID's)"))
    )
    table = tables(run, tmp_path)[0]["fidelity"]
    assert cell(table, "Fréchet distance (Inception, other weights than FID's) ↓", "synth")["paper"] == ""
    assert cell(table, "FID ↓", "generated") == {"ours": "", "paper": "72.23", "state": "not run"}


def stream(captions, redundancy, clip=None):
    share = {"value": 0.9, "interval": [0.85, 0.95]}
    return {
        "texts": {"captions": captions, "redundancy": redundancy},
        "grounding": {"f1": share, "hallucination": {"value": None, "interval": None}},
        "clip": {"value": clip, "interval": None, "captions": 10} if clip else None,
    }


def test_streams_are_the_papers_by_their_model_and_compare_at_its_number(tmp_path, run):
    sources = {
        "mine": [str(tmp_path / "mine.csv")],
        "vision_language_gemma3": ["nowhere.csv"],
        "text_qwen3": ["nowhere"],
    }
    record = {"command": ["vision_captioner.py"], "options": {"model": "google/gemma-3-4b-it"}}
    (tmp_path / "mine.csv.run.json").write_text(json.dumps(record))
    streams = {
        "mine": stream(400_240, 0.0123, 30.5),
        "vision_language_gemma3": stream(64, 0),
        "text_qwen3": stream(9, 0),
    }
    found = {"streams": streams | {"other_1": stream(5, 0)}, "all": {"redundancy": 0.1}, "sources": sources}
    (tmp_path / "caption_metrics.json").write_text(json.dumps(found))
    table = tables(run, tmp_path)[0]["captions"]
    ours = "exact redundancy %"
    assert cell(table, "vision, Gemma3-4B", ours) == {"ours": "1.23", "paper": "0.84", "state": "done"}
    assert cell(table, "vision, Gemma3-4B", "CLIPScore") == {"ours": "30.50", "paper": "31.06", "state": "done"}
    assert cell(table, "hybrid, Gemma3-4B", ours) == {"ours": "0.00", "paper": "0.47", "state": "not comparable"}
    assert cell(table, "text, Qwen3-4B", "captions")["ours"] == "9"
    assert cell(table, "hybrid, Qwen3-VL-8B", ours)["state"] == "not run"
    assert cell(table, "other_1", "classes, F1 %")["ours"] == "90.0 [85.0, 95.0]"
    assert cell(table, "all five", ours)["state"] == "not run"


def test_latex_is_whole_and_escaped(tmp_path, run):
    write_grid(tmp_path, seeds=(0,), kinds=("real",))
    (tmp_path / "a_b%&$#{}~^").mkdir()
    (tmp_path / "a_b%&$#{}~^" / "fidelity.json").write_text(json.dumps(fidelity("FID")))
    made, _ = tables(run, tmp_path)
    text = (tmp_path / "results" / "tables.tex").read_text()
    grids = re.findall(r"\\begin\{tabular\}\{l(r*)\}\n\\toprule\n(.*?)\\bottomrule\n\\end\{tabular\}", text, re.S)
    assert [len(columns) for columns, _ in grids] == [len(table["columns"]) for table in made.values()]
    for columns, body in grids:
        lines = [line for line in body.splitlines() if line != "\\midrule"]
        assert all(line.endswith(" \\\\") for line in lines)
        assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {len(columns)}
    plain = re.sub(r"(?m)^%.*$", "", text)
    assert re.search(r"(?<!\\)[#~]", plain) is None
    assert r"a\_b\%\&\$\#\{\}\textasciitilde{}\textasciicircum{}" in plain
    depth = np.cumsum([(c == "{") - (c == "}") for c in re.sub(r"\\[{}]", "", plain)])
    assert depth.min() == 0
    assert depth[-1] == 0
    assert not re.search("[^\x00-\x7f]", re.sub("[éö]", "", plain)), "letters that LaTeX may not know"
    markdown = (tmp_path / "results" / "tables.md").read_text()
    assert "| Segformer | " in markdown
