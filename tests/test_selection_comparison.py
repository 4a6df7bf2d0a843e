"""The comparison of chosen with drawn images: its figures, and the commands that it runs."""

import sys

import pytest
from PIL import Image

from aras.errors import UserError
from runs.selection_comparison import ARMS, PAIRS, SCORES, call, difference_of, draw_results, python, table


@pytest.fixture
def results():
    scores = {"real": (0.50, 0.52, 0.51), "drawn": (0.49, 0.53, 0.51), "selected": (0.52, 0.55, 0.52)}
    told = {"generated": 167, "epochs": 15, "best_epoch": 7}
    return [
        {"arm": arm, "seed": seed, "val": score, "test": score - 0.1, **told}
        for arm in ARMS
        for seed, score in enumerate(scores[arm])
    ]


def test_differences_are_taken_seed_by_seed(results):
    found = difference_of(results, "selected", "drawn", "val")
    assert found["each"] == pytest.approx([0.03, 0.02, 0.01])
    assert found["mean"] == pytest.approx(0.02)
    assert found["interval95"] == pytest.approx([0.02 - 4.303 * 0.01 / 3**0.5, 0.02 + 4.303 * 0.01 / 3**0.5], abs=1e-6)
    one = [row for row in results if row["seed"] == 0]
    assert difference_of(one, "selected", "drawn", "val")["interval95"] is None


def test_the_table_has_every_training_and_every_difference(results, tmp_path):
    differences = [difference_of(results, *pair, score) for pair in PAIRS for score in SCORES]
    lines = table(results, differences).splitlines()
    assert len(lines) == 2 + 9 + 3 + 1 + 2 + 3
    assert lines[8] == "| selected | 0 | 167 | 7 of 15 | 52.0 | 42.0 |"
    assert lines[13] == "| **selected** | mean | | | 53.0 ± 1.7 | 43.0 ± 1.7 |"
    assert lines[-1] == "| selected - drawn | +2.0 (-0.5 to +4.5) | +2.0 (-0.5 to +4.5) |"
    draw_results(tmp_path / "figure.png", results, differences)
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width > 1500


def test_a_command_that_fails_is_told_and_what_it_said_kept(tmp_path):
    with pytest.raises(UserError, match=r"failed, see .*log; run the same command again"):
        call(
            [sys.executable, "-c", "import os; print(os.environ['OMP_NUM_THREADS']); raise SystemExit(3)"],
            tmp_path / "log",
        )
    assert (tmp_path / "log").read_text() == "1\n"
    assert python("segmentation_train.py", "--seed", 1)[-2:] == ["--seed", "1"]
