"""What a selection is made of: neighbours of features on disk, and a number of images with a wanted mix."""

import itertools
import json
import time

import numpy as np
import pytest

import aras.fidelity.nearest
import aras.selection.neighbours
from aras.fidelity.nearest import nearest
from aras.legend import CLASS_NAMES
from aras.selection.measuring import open_rows
from aras.selection.mix import chosen_for_mix, distance_of_mixes, target_of
from aras.selection.neighbours import repeats


def rows_of(path, features):
    """Write `features` (N, D) as rows, as a measured set lies on disk, and return them."""
    table = np.concatenate([features, np.zeros((len(features), 9))], axis=1).astype(np.float32)
    np.savez(path, rows=table, failures=np.array(json.dumps({})))
    return open_rows(path)


@pytest.fixture
def small_blocks(monkeypatch):
    """Many blocks of few images, the last ones not full."""
    for module in (aras.fidelity.nearest, aras.selection.neighbours):
        monkeypatch.setattr(module, "BLOCK", 7)


def test_rows_are_read_from_where_they_lie(tmp_path):
    features = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    rows = rows_of(tmp_path / "a.npz", features)
    assert rows.features_of().shape == (5, 3)
    assert (rows.features_of(np.array([4, 1, 0]))[:2] == features[[4, 1]]).all()
    assert (rows.features_of()[np.array([3])] == features[3]).all()
    assert rows.scores_and_shares()[1].shape == (5, 7)


def test_neighbours_of_features_on_disk_are_those_in_memory(tmp_path, small_blocks):
    rng = np.random.default_rng(1)
    base, queries = (rng.normal(100, 1, (count, 6)).astype(np.float32) for count in (40, 22))
    queries[21] = base[5]
    which = np.array([21, 0, 3, 5, 8, 20, 2, 19, 1])
    found = nearest(
        rows_of(tmp_path / "q.npz", queries).features_of(which), rows_of(tmp_path / "b.npz", base).features_of(), 4
    )
    plain = nearest(queries[which], base, 4)
    assert all((one == other).all() for one, other in zip(found, plain, strict=True))
    assert found[0][0, 0] == 0
    assert found[1][0, 0] == 5


def test_of_near_duplicates_the_first_stays_and_chains_do_not_grow(small_blocks):
    line = (np.arange(30)[:, None] * np.array([[0.6, 0.8]])).astype(np.float32)
    distances, twins = repeats(line, 2.5)
    assert np.flatnonzero(twins < 0).tolist() == list(range(0, 30, 3))
    assert (twins[1], twins[20]) == (0, 18)
    assert distances[[1, 20]] == pytest.approx([1, 2])
    assert np.isinf(distances[::3]).all()
    assert repeats(line[:0], 2.5)[1].shape == (0,)


@pytest.mark.parametrize("least", [0.5, 1.5, 3])
def test_what_repeats_is_what_the_plain_rule_says(small_blocks, least):
    features = np.random.default_rng(2).normal(50, 1, (60, 4)).astype(np.float32)
    distances, twins = repeats(features, least)
    kept: list[int] = []
    for place in range(60):
        apart = np.linalg.norm(features[kept].astype(float) - features[place], axis=1)
        if kept and apart.min() < least:
            assert twins[place] == kept[int(apart.argmin())]
            assert distances[place] == pytest.approx(apart.min(), abs=1e-5)
        else:
            assert twins[place] == -1
            kept.append(place)
    assert 1 < len(kept) <= 60


def test_a_copy_is_found_wherever_it_comes(small_blocks):
    features = np.random.default_rng(3).normal(50, 1, (30, 4)).astype(np.float32)
    features[[9, 29]] = features[2]
    distances, twins = repeats(features, 0.01)
    assert twins[[9, 29]].tolist() == [2, 2]
    assert (twins >= 0).sum() == 2
    assert (distances[[9, 29]] == 0).all()
    assert (repeats(features, 0)[1] == -1).all()


def shares_of(count, seed=0):
    """Return shares (N, 7) in which classes are as unequal as land cover."""
    return np.random.default_rng(seed).dirichlet([0.6, 0.2, 1.9, 0.8, 0.16, 0.24, 0.24], count)


def test_a_mix_that_can_be_met_is_met():
    shares = shares_of(3000)
    target = 0.7 * shares.mean(axis=0) + 0.3 / 7
    chosen = chosen_for_mix(shares, target, 900, seed=0)
    assert chosen.sum() == 900
    assert distance_of_mixes(shares[chosen].mean(axis=0), target) < 7 / 900
    assert distance_of_mixes(shares.mean(axis=0), target) > 0.1
    assert (chosen_for_mix(shares, target, 900, seed=0) == chosen).all()
    assert 0.2 < (chosen_for_mix(shares, target, 900, seed=1) & chosen).sum() / 900 < 0.8


def test_images_that_serve_the_mix_alike_are_drawn_alike():
    """Of two kinds of which each is a half of the target, each image has the same chance."""
    shares = np.eye(7)[[0] * 300 + [2] * 100]
    halves = np.array([0.5, 0, 0.5, 0, 0, 0, 0])
    taken = np.sum([chosen_for_mix(shares, halves, 100, seed) for seed in range(40)], axis=0)
    assert taken[:300].sum() == taken[300:].sum() == 40 * 50
    assert taken[300:].mean() == 20
    assert taken[300:].std() < 2 * np.sqrt(40 * 0.25)
    assert 0 < taken[:300].max() < 20


def test_a_mix_that_cannot_be_met_is_approached_as_near_as_any_subset_comes():
    shares = shares_of(12, seed=3)
    target = np.array([0, 0, 0, 0, 1, 0, 0.0])
    chosen = chosen_for_mix(shares, target, 4, seed=0)
    best = min(
        distance_of_mixes(shares[list(subset)].mean(axis=0), target) for subset in itertools.combinations(range(12), 4)
    )
    assert distance_of_mixes(shares[chosen].mean(axis=0), target) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("budget", [250, 714, 1666])
def test_classes_are_balanced_by_as_much_as_the_images_allow(budget):
    """Whether equal shares can be met, nearly, or not; the best there is, is told by the programme without draws."""
    from scipy.optimize import linprog

    shares, target = shares_of(5000).astype(np.float32), np.full(7, 1 / 7)
    chosen = chosen_for_mix(shares, target, budget, seed=0)
    assert chosen.sum() == budget
    above = np.hstack([shares.T.astype(float), -np.eye(7)])  # as both add up to one, half the distance lies above
    best = linprog(
        np.r_[np.zeros(5000), np.ones(7)],
        A_ub=above,
        b_ub=budget * target,
        A_eq=np.r_[np.ones(5000), np.zeros(7)][None],
        b_eq=[budget],
        bounds=[(0, 1)] * 5000 + [(0, None)] * 7,
    )
    assert distance_of_mixes(shares[chosen].mean(axis=0), target) <= best.fun / budget + 8 / budget
    assert distance_of_mixes(shares.mean(axis=0), target) > 0.3


def test_a_budget_for_all_takes_all():
    assert chosen_for_mix(shares_of(5), np.full(7, 1 / 7), 5, 0).all()


@pytest.mark.slow
def test_as_many_images_as_the_paper_drew_are_chosen_in_minutes():
    """About 10 s on one idle core; the interior point method takes as many steps for more images."""
    shares = shares_of(300_000)
    target = 0.5 * shares.mean(axis=0) + 0.5 / 7
    began = time.process_time()
    chosen = chosen_for_mix(shares, target, 100_000, seed=0)
    assert time.process_time() - began < 120
    assert chosen.sum() == 100_000
    assert distance_of_mixes(shares[chosen].mean(axis=0), target) < 1e-4


def test_targets_are_read():
    real = np.array([0.2, 0, 0.5, 0.2, 0.05, 0, 0.05])
    assert (target_of("real", real) == real).all()
    assert target_of("uniform", real) == pytest.approx([0.2, 0, 0.2, 0.2, 0.2, 0, 0.2])
    assert target_of("Tree=0.25, Water=0.75", real) == pytest.approx([0.25, 0, 0, 0, 0, 0, 0.75])
    for text, message in (
        ("forest=1", f"forest=1 is not CLASS=SHARE with one of {CLASS_NAMES[0]}"),
        ("Tree", "Tree has no share"),
        ("Tree=2", "no share from 0 to 1"),
        ("Tree=0.5,Tree=0.5", "comes twice"),
        ("Tree=0.5", r"add up to 0\.5, not to 1"),
        ("Tree=nan", "no share from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            target_of(text, real)
