"""The Fréchet distance against closed forms, and its moments against NumPy's."""

import numpy as np
import pytest
from test_distributed import in_processes

from aras.frechet import Moments, frechet_distance


def moments(mean, covariance):
    """Return moments whose mean and covariance are exactly these."""
    return Moments(101, np.array(mean, float), 100 * np.array(covariance, float))


def spread(rng, width, rank=None):
    factor = rng.normal(size=(width, rank or width))
    return factor @ factor.T


def test_in_one_dimension_it_is_known():
    """(m1 - m2)^2 + (s1 - s2)^2."""
    assert frechet_distance(moments([1], [[9]]), moments([3], [[25]])) == pytest.approx(4 + 4, abs=1e-12)


def test_of_covariances_that_commute_it_is_known():
    """Sum of (sqrt(a) - sqrt(b))^2 over the common axes."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    a, b = rng.uniform(0, 5, (2, 12))
    a[3] = b[5] = 0
    found = frechet_distance(moments(np.zeros(12), axes * a @ axes.T), moments(np.ones(12), axes * b @ axes.T))
    assert found == pytest.approx(12 + np.square(np.sqrt(a) - np.sqrt(b)).sum(), rel=1e-10)


def test_it_is_what_the_square_root_of_the_product_gives():
    """As Heusel et al. compute it, where that is well-conditioned."""
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(1)
    one, other = spread(rng, 30), spread(rng, 30)
    means = rng.normal(size=(2, 30))
    wanted = np.square(means[0] - means[1]).sum() + np.trace(one + other - 2 * sqrtm(one @ other).real)
    assert frechet_distance(moments(means[0], one), moments(means[1], other)) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-4, 1, 1e4])
def test_a_set_is_at_no_distance_from_itself_however_few_its_features(scale):
    features = scale * np.random.default_rng(2).normal(3, 1, (40, 200))
    found = frechet_distance(Moments.of(features), Moments.of(features[::-1]))
    assert 0 <= found < 1e-6 * scale**2


def test_flat_sets_that_cross_are_as_far_apart_as_their_spreads():
    """In planes at right angles the square root of the product is 0; the cosine comes in where they are not."""
    e = np.eye(50)
    for angle, shared in ((np.pi / 2, 0), (np.pi / 3, 0.5), (0, 1)):
        line = np.cos(angle) * e[0] + np.sin(angle) * e[1]
        found = frechet_distance(
            moments(np.zeros(50), 4 * np.outer(e[0], e[0])), moments(np.zeros(50), 9 * np.outer(line, line))
        )
        assert found == pytest.approx(4 + 9 - 2 * 6 * shared, abs=1e-12)
    still = moments(np.zeros(50), np.zeros((50, 50)))
    assert frechet_distance(still, moments(e[0], 4 * np.outer(e[0], e[0]))) == pytest.approx(5, abs=1e-12)


def test_moments_of_batches_add_up_to_those_of_the_whole():
    features = np.random.default_rng(3).normal(1e3, 2, (500, 20)).astype(np.float32)
    streamed, halves = Moments.empty(20), [Moments.empty(20), Moments.empty(20)]
    for which, start in enumerate(range(0, 500, 7)):
        streamed.add(features[start : start + 7])
        halves[which % 2].add(features[start : start + 7])
    halves[0].merge(halves[1])
    for found in (streamed, halves[0]):
        assert found.count == 500
        assert np.allclose(found.mean, features.mean(axis=0, dtype=np.float64), rtol=1e-14)
        assert np.allclose(found.covariance, np.cov(features.astype(np.float64), rowvar=False), atol=1e-9)
    before = streamed.scatter.copy()
    streamed.add(features[:0])
    assert streamed.count == 500
    assert np.array_equal(streamed.scatter, before)


def moments_of_rank(rank, folder):
    """Return what rank `rank` of two makes of its share."""
    import torch

    features = np.load(folder / "features.npy")
    found = Moments.of(features[rank * 100 : rank * 100 + 100 + 50 * rank]).over_ranks()
    return {"count": found.count, "mean": torch.from_numpy(found.mean), "scatter": torch.from_numpy(found.scatter)}


@pytest.mark.slow
def test_moments_of_two_processes_add_up_to_those_of_one(tmp_path):
    features = np.random.default_rng(4).normal(50, 2, (250, 9))
    np.save(tmp_path / "features.npy", features)
    wanted = Moments.of(features)
    for found in in_processes(moments_of_rank, tmp_path):
        assert found["count"] == 250
        assert np.allclose(found["mean"], wanted.mean, rtol=1e-14)
        assert np.allclose(found["scatter"], wanted.scatter, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_and_leaves_the_moments_as_they_were(bad):
    found = Moments.of(np.ones((3, 4)))
    features = np.ones((2, 4))
    features[1, 2] = bad
    with pytest.raises(ValueError, match="not finite"):
        found.add(features)
    assert found.count == 3


def test_what_cannot_be_compared_is_refused():
    one = Moments.of(np.ones((3, 4)))
    with pytest.raises(ValueError, match="4 and of 5 dimensions"):
        frechet_distance(one, Moments.of(np.ones((3, 5))))
    with pytest.raises(ValueError, match="fewer than two"):
        frechet_distance(one, Moments.of(np.ones((1, 4))))
