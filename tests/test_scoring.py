"""Intervals from blocks, and the table by tile."""

import json

import numpy as np
import pytest

from aras.blocks import blocks_of
from aras.confusion import scores
from aras.scoring import intervals, tile_table


def matrices_of(rng, blocks, pixels=4000, skill=0.7, classes=7):
    """Return confusion matrices of blocks that differ from each other as blocks of neighbours do."""
    found = np.zeros((blocks, 7, 7), int)
    for matrix in found:
        mix = rng.dirichlet(np.full(classes, 0.5))
        truth = rng.choice(classes, pixels, p=mix)
        right = rng.random(pixels) < rng.beta(8 * skill, 8 * (1 - skill))
        np.add.at(matrix, (truth, np.where(right, truth, rng.integers(0, classes, pixels))), 1)
    return found


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """Of 150 samples of 40 blocks, at a level of 95 % between 84 % and 100 % must hold the accuracy of all blocks."""
    rng = np.random.default_rng(0)
    population = matrices_of(rng, 3000, pixels=400)
    truth = scores(population.sum(axis=0))["accuracy"]
    held = 0
    for sample in range(150):
        low, high = intervals(population[rng.integers(0, 3000, 40)], seed=sample)["accuracy"]
        held += low <= truth <= high
    assert 0.84 * 150 <= held <= 150
    assert held < 150


def test_blocks_make_it_wider_than_pixels_taken_one_by_one_would():
    found = intervals(matrices_of(np.random.default_rng(1), 30))
    low, high = found["accuracy"]
    as_if_independent = 2 * 1.96 * np.sqrt(0.7 * 0.3 / (30 * 4000))
    assert high - low > 5 * as_if_independent


def test_it_agrees_with_a_plain_loop_and_follows_from_the_seed():
    matrices = matrices_of(np.random.default_rng(2), 12, classes=5)
    found = intervals(matrices, seed=3)
    assert found == intervals(matrices, seed=3) != intervals(matrices, seed=4)
    rng = np.random.default_rng(9)
    drawn = [scores(matrices[rng.integers(0, 12, 12)].sum(axis=0)) for _ in range(2000)]
    for name in ("accuracy", "f1", "iou", "precision", "recall"):
        np.testing.assert_allclose(
            found[name], np.quantile([one[name] for one in drawn], [0.025, 0.975]), atol=0.02, err_msg=name
        )
    tree = [one["classes"]["Tree"]["iou"] for one in drawn]
    np.testing.assert_allclose(found["classes"]["Tree"]["iou"], np.quantile(tree, [0.025, 0.975]), atol=0.02)
    assert found["classes"]["Water"] == dict.fromkeys(("f1", "iou", "precision", "recall"))
    json.dumps(found, allow_nan=False)


def test_the_score_lies_in_its_interval_and_one_block_has_none():
    matrices = matrices_of(np.random.default_rng(5), 25)
    found, all_scores = intervals(matrices), scores(matrices.sum(axis=0))
    for name in ("accuracy", "f1", "iou"):
        low, high = found[name]
        assert low < all_scores[name] < high
    assert intervals(matrices[:1]) is None


def test_the_table_by_tile_adds_up(tmp_path):
    names = np.array([f"N41E031_{row:03d}_000" for row in (0, 1, 8)] + ["N42E031_000_000"])
    blocks = blocks_of(tmp_path, names)
    matrices = matrices_of(np.random.default_rng(7), len(blocks))
    first, second = tile_table(matrices, blocks)
    assert (first["tile"], first["images"], first["blocks"]) == ("N41E031", 3, 2)
    assert (second["tile"], second["images"], second["blocks"]) == ("N42E031", 1, 1)
    assert first["pixels"] + second["pixels"] == matrices.sum()
    assert first["f1"] == pytest.approx(scores(matrices[:2].sum(axis=0))["f1"])
    assert second["accuracy"] == pytest.approx(np.trace(matrices[2]) / matrices[2].sum())
