"""Silhouettes against scikit-learn's, on cases that it can hold."""

import numpy as np
import pytest

from aras.feature_maps import silhouette
from aras.feature_maps.silhouette import all_scores, blocks_within, distance_sums, score_and_error, silhouettes_of
from aras.training import share_cores

share_cores()


def sums_of(features, sizes):
    import torch

    return distance_sums(features, sizes, torch.device("cpu"))


def drawn(sizes, width=40, offset=0.0, apart=0.5, seed=0):
    rng = np.random.default_rng(seed)
    sets = [rng.normal(offset + apart * k, 1 + k, (size, width)) for k, size in enumerate(sizes)]
    return np.concatenate(sets).astype(np.float32)


def twins(sizes):
    """Return sets in which every vector is there twice, and which differ by little beside their length."""
    found = drawn(sizes, apart=0)
    found[1::2] = found[::2][: len(found[1::2])]
    return found


CASES = {
    "uneven": (drawn((300, 37, 120)), (300, 37, 120)),
    "a set of one image": (drawn((50, 1, 30)), (50, 1, 30)),
    "duplicates": (twins((40, 60)), (40, 60)),
    "two sets of duplicates alone": (np.repeat(drawn((1, 1)), (20, 7), axis=0), (20, 7)),
    "all the same": (np.ones((30, 8), np.float32), (10, 20)),
    "far from the origin": (drawn((60, 80), offset=1e4), (60, 80)),
    "sets far from each other": (drawn((60, 80), apart=1e5), (60, 80)),
    "lengths that differ": (drawn((70, 50)) * np.logspace(-4, 4, 120, dtype=np.float32)[:, None], (70, 50)),
    "a duplicate far out": (np.concatenate([drawn((40, 40)), np.full((2, 40), 1e4, np.float32)]), (40, 42)),
    "eight sets": (drawn((9, 8, 7, 6, 5, 4, 3, 2)), (9, 8, 7, 6, 5, 4, 3, 2)),
}


@pytest.mark.parametrize("features, sizes", CASES.values(), ids=CASES)
@pytest.mark.parametrize("block", [7, 1024])
def test_silhouettes_are_scikit_learns(features, sizes, block, monkeypatch):
    from sklearn.metrics import silhouette_samples

    monkeypatch.setitem(silhouette.BLOCK, "cpu", block)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    found = silhouettes_of(sums_of(features, sizes), sizes)
    # In float64 and about the mean, as scikit-learn's own distances far from the origin lose digits.
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    assert np.abs(found - silhouette_samples(centred, labels)).max() < 1e-5


def test_scores_of_all_and_of_every_two_follow_from_one_pass():
    from sklearn.metrics import silhouette_score

    sizes, names = (90, 25, 60), ("real", "synthetic", "generated")
    features, labels = drawn(sizes), np.repeat(np.arange(3), sizes)
    found = all_scores(sums_of(features, sizes), names, sizes, np.arange(175).astype(str), 0)
    assert found["overall"]["silhouette"] == pytest.approx(silhouette_score(features, labels), abs=1e-6)
    assert [pair["sets"] for pair in found["pairs"]] == [list(p) for p in (names[:2], names[::2], names[1:])]
    for pair in found["pairs"]:
        two = np.isin(labels, [names.index(name) for name in pair["sets"]])
        assert pair["silhouette"] == pytest.approx(silhouette_score(features[two], labels[two]), abs=1e-6)


def test_blocks_end_where_sets_end():
    blocks = blocks_within((5, 1, 4), 3)
    assert [(block.start, block.stop, which) for block, which in blocks] == [
        *((0, 3, 0), (3, 5, 0), (5, 6, 1), (6, 9, 2), (9, 10, 2)),
    ]


def test_the_error_is_that_of_independent_draws_when_each_image_is_its_own_block():
    sizes = (400, 400)
    sums = sums_of(drawn(sizes), sizes)
    values = silhouettes_of(sums, sizes)
    found = score_and_error(sums, sizes, np.arange(800), 0)
    of_sets = [values[:400].var() / 400, values[400:].var() / 400]
    assert found["standard_error"] == pytest.approx(np.sqrt(sum(of_sets)) / 2, rel=0.1)
    assert found == score_and_error(sums, sizes, np.arange(800), 0)
    assert found != score_and_error(sums, sizes, np.arange(800), 1)


def test_images_that_repeat_each_other_do_not_make_the_score_surer():
    sizes = (60, 60)
    sums = np.repeat(sums_of(drawn(sizes), sizes), 9, axis=0) * 9
    own = score_and_error(sums, (540, 540), np.arange(1080), 0)["standard_error"]
    grouped = score_and_error(sums, (540, 540), np.repeat(np.arange(120), 9), 0)["standard_error"]
    assert grouped == pytest.approx(3 * own, rel=0.15)


def test_one_block_tells_no_error():
    sums = sums_of(drawn((6, 6)), (6, 6))
    assert score_and_error(sums, (6, 6), np.zeros(12), 0)["standard_error"] is None
    apart = score_and_error(sums, (6, 6), np.repeat((0, 1), 6), 0)
    assert apart["standard_error"] is None or np.isfinite(apart["standard_error"])
