import json

import numpy as np
import pytest

from aras.confusion import scores
from aras.files import write_json
from aras.legend import CLASS_NAMES, NUM_CLASSES
from aras.segmentation.repeats import seeds_of, summary_of, table_of


def a_run(seed, absent=()):
    """Return what a test_metrics.json holds, of a confusion matrix drawn from `seed`."""
    matrix = np.random.default_rng(seed).integers(1, 50, (NUM_CLASSES, NUM_CLASSES)) + 200 * np.eye(
        NUM_CLASSES, dtype=int
    )
    for c in absent:
        matrix[c] = 0
    if seed % 2:
        matrix[:, list(absent)] = 0  # not predicted either, so its scores are null
    return {"images": 5, "epochs": 3, "best_epoch": 2 + seed, "loss": 0.1 * seed, **scores(matrix)}


@pytest.mark.parametrize("text, seeds", [("0,1,2", (0, 1, 2)), ("7", (7,)), (" 3, 1 ", (3, 1))])
def test_seeds_are_whole_numbers(text, seeds):
    assert seeds_of(text) == seeds


@pytest.mark.parametrize("text", ["", "0,,1", "0,-1", "0;1", "1.5", "²", "one"])
def test_seeds_that_are_no_numbers_are_named(text):
    with pytest.raises(ValueError, match="is not whole numbers from 0 with commas between them, such as 0,1,2"):
        seeds_of(text)


def test_a_seed_that_is_there_twice_is_named():
    with pytest.raises(ValueError, match="'0,1,00' has a seed twice"):
        seeds_of("0,1,00")


def test_the_summary_is_numpys(tmp_path):
    runs = {seed: a_run(seed) for seed in (0, 3, 5)}
    write_json(tmp_path / "seeds.json", summary_of(runs))
    found = json.loads((tmp_path / "seeds.json").read_text())
    assert found["seeds"] == [0, 3, 5]
    assert list(found["runs"]) == ["0", "3", "5"]
    assert found["absent"] == []
    for name in ("loss", "accuracy", "f1", "iou", "precision", "recall", "f1_all"):
        values = [run[name] for run in runs.values()]
        spread = found["scores"][name]
        assert spread["mean"] == pytest.approx(np.mean(values))
        assert spread["std"] == pytest.approx(np.std(values, ddof=1))
        assert (spread["min"], spread["max"]) == (min(values), max(values))
        assert [run[name] for run in found["runs"].values()] == values
    for c in CLASS_NAMES:
        for name in ("f1", "iou"):
            values = [run["classes"][c][name] for run in runs.values()]
            assert found["classes"][c][name]["mean"] == pytest.approx(np.mean(values))
            assert found["classes"][c][name]["std"] == pytest.approx(np.std(values, ddof=1))
            assert found["runs"]["3"]["classes"][c][name] == values[1]
    assert found["runs"]["5"]["best_epoch"] == 7


def test_one_run_has_no_deviation():
    found = summary_of({4: a_run(4)})
    assert found["scores"]["f1"] == {"mean": a_run(4)["f1"], "std": None, "min": a_run(4)["f1"], "max": a_run(4)["f1"]}
    table = table_of(found)
    assert table.splitlines()[0] == "1 run, seed 4"
    assert f"f1{'':18}{a_run(4)['f1']:9.4f}        -" in table


def test_a_class_that_the_test_split_lacks_has_no_score_in_any_run():
    """One run predicts it in places, which scores 0, and the other does not, which scores null."""
    shrub = CLASS_NAMES.index("Shrub")
    runs = {seed: a_run(seed, absent=[shrub]) for seed in (2, 3)}
    assert runs[2]["classes"]["Shrub"]["f1"] == 0
    assert runs[3]["classes"]["Shrub"]["f1"] is None
    found = summary_of(runs)
    assert found["absent"] == ["Shrub"]
    assert found["classes"]["Shrub"]["f1"] == dict.fromkeys(("mean", "std", "min", "max"))
    assert found["runs"]["2"]["classes"]["Shrub"] == {"f1": None, "iou": None}
    table = table_of(found)
    assert "Shrub f1" not in table
    assert "Water iou" in table
    assert table.splitlines()[-1] == "no such pixels, so not counted in the mean: Shrub"


def test_the_table_has_a_line_for_each_score():
    found = summary_of({seed: a_run(seed) for seed in (0, 1)})
    lines = table_of(found).splitlines()
    assert lines[0] == "2 runs, seeds 0, 1"
    assert lines[1].split() == ["mean", "std", "min", "max"]
    spread = found["classes"]["Built-up"]["iou"]
    assert ["Built-up", "iou", *(f"{value:.4f}" for value in spread.values())] in [line.split() for line in lines]
    assert len(lines) == 2 + 5 + 2 * NUM_CLASSES
