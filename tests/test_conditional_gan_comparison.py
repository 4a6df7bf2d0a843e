"""The comparison of the two recipes: its plan, its table, and that it runs and goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny_dataset import make_dataset
from tiny_model import save_tiny_model

from aras.errors import UserError
from runs.conditional_gan_comparison import ARMS, MEASURES, Run, command_of, summary_of, table, train_together

ROOT = Path(__file__).resolve().parent.parent


def result(arm, seed, frechet, diversity, **more):
    measures = dict.fromkeys(MEASURES, 0.5) | {"frechet": frechet, "diversity_levels": diversity}
    return {"arm": arm, "seed": seed, "trained_images": 1234} | measures | more


@pytest.fixture
def results():
    ours = [result("unet-spade", seed, frechet, 8) for seed, frechet in enumerate((900, 1000, 1400))]
    return ours + [result("published", seed, 1200, 0, repetition=None) for seed in range(3)]


def test_every_seed_is_in_the_table_and_arms_are_summed_up(results):
    lines = table(results, {"frechet_floor": 700, "ceiling_miou": 0.61, "repetition": 0.3}).splitlines()
    assert len(lines) == 2 + 6 + 2 + 1
    assert lines[2].startswith("| unet-spade | 0 | 1,234 | 900 | 0 | 0.500 |")
    assert lines[8].startswith("| **unet-spade** | mean |  | 1100 ± 265 |")
    assert lines[9].endswith("| 0.0 ± 0.0 | 0.50 ± 0.00 |  |")
    assert lines[10].split(" | ")[3:5] == ["700", ""]
    assert lines[10].endswith("| 0.300 |")


def test_seeds_in_which_the_first_arm_is_better_are_counted(results):
    found = summary_of(results)
    better = found["better_in_seeds"]["unet-spade against published"]
    assert better["frechet"] == 2
    assert better["diversity_levels"] == 3
    assert better["agreement_miou"] == 0
    assert "repetition" not in better
    assert found["arms"]["unet-spade"]["frechet"] == pytest.approx({"mean": 1100, "std": 264.575}, rel=1e-4)
    assert found["arms"]["published"]["repetition"] is None
    assert found["seeds"] == [0, 1, 2]


def test_arms_differ_by_their_options_alone():
    words = {}
    for arm in ARMS:
        line = command_of(Run(arm, 3, Path("out")), Path("data"), Path("best.pt"), 2.5, "none")[2:]
        options = [word for word in line if word != "--no-draw"]
        words[arm] = dict(zip(options[::2], options[1::2], strict=True))
    shared = {"--data": "data", "--minutes": "2.5", "--seed": "3", "--device": "cpu", "--quality-split": "val"}
    assert all(line.items() >= shared.items() for line in words.values())
    assert words["published"]["--vgg"] == "none"
    assert "--vgg" not in words["unet-spade"]


def test_of_commands_that_run_together_one_that_fails_ends_the_other(tmp_path):
    sleeper = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(60)"]
    failing = [sys.executable, "-c", "import os; print(os.environ['OMP_NUM_THREADS']); raise SystemExit(3)"]
    with pytest.raises(UserError, match=r"training b failed, see .*b\.log; run the same command again"):
        train_together({"b": failing, "a": sleeper}, tmp_path)
    assert (tmp_path / "b.log").read_text() == "1\n"


@pytest.mark.slow
def test_both_recipes_are_trained_measured_and_drawn_and_a_second_call_has_nothing_to_do(tmp_path):
    data = make_dataset(tmp_path / "ARAS400k", (64, 64), train=8, val=4, test=4)
    judge = save_tiny_model(tmp_path, data=str(data), train=["train"])
    words = ("--data", data, "--judge", judge, "--minutes", 0.02, "--seeds", "0", "--output", tmp_path / "out")
    command = [sys.executable, ROOT / "runs/conditional_gan_comparison.py", *words, "--region", tmp_path / "none"]
    for _ in range(2):
        done = subprocess.run(
            list(map(str, command)),
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        found = json.loads((tmp_path / "out" / "comparison.json").read_text())
        times = [(tmp_path / "out" / f"{arm}_seed_0" / "test_quality.json").stat().st_mtime_ns for arm in ARMS]
    assert times == [(tmp_path / "out" / f"{arm}_seed_0" / "test_quality.json").stat().st_mtime_ns for arm in ARMS]
    by_arm = {row["arm"]: row for row in found["results"]}
    assert by_arm.keys() == ARMS.keys()
    assert by_arm["published"]["diversity_levels"] == 0
    assert by_arm["unet-spade"]["diversity_levels"] > 0
    assert all(row["marks"]["split"] == "test" and row["images"] == 32 for row in by_arm.values())
    assert "Finished already" in (tmp_path / "out" / "published_seed_0.log").read_text()
    assert (tmp_path / "out" / "table.md").read_text() == done.stdout.split("Writes")[0].split("each\n")[
        1
    ].strip() + "\n"
    for name in ("curves.png", "samples.png"):
        with Image.open(tmp_path / "out" / name) as image:
            assert image.width > 800
    refused = subprocess.run([*map(str, command), "--minutes", "1"], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "--minutes was 0.02, now 1.0" in refused.stderr
