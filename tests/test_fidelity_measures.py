"""Measures of features against plain formulas and known answers."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from aras.errors import UserError
from aras.fidelity import manifolds
from aras.fidelity import nearest as nearest_module
from aras.fidelity.conditional import class_conditional_frechet, common_counts, dominant_classes
from aras.fidelity.frechet import frechet_estimate, frechet_of_draws
from aras.fidelity.kernels import kernel_distance
from aras.fidelity.manifolds import manifold_scores
from aras.fidelity.memorisation import memorised
from aras.fidelity.nearest import nearest
from aras.fidelity.resampling import draws_of_two, groups_of
from aras.frechet import Moments, frechet_distance
from aras.legend import NO_DATA
from aras.training import share_cores

share_cores()


def normal(count, width, seed=0, mean=0.0, scale=1.0):
    return np.random.default_rng(seed).normal(mean, scale, (count, width)).astype(np.float32)


@pytest.fixture(params=[7, 1024])
def block(request, monkeypatch):
    """Blocks that split the sets, and one that holds them whole."""
    for module in (nearest_module, manifolds):
        monkeypatch.setattr(module, "BLOCK", request.param)


# Nearest neighbours


@pytest.mark.parametrize("offset", [0, 1e4])
def test_nearest_are_those_of_all_distances(block, offset):
    one, other = normal(23, 5, 1, offset), normal(40, 5, 2, offset)
    distances, places = nearest(one, other, 4)
    wanted = cdist(one, other)
    assert np.array_equal(places, wanted.argsort(axis=1)[:, :4])
    assert distances == pytest.approx(np.sort(wanted, axis=1)[:, :4], rel=1e-12)


def test_no_image_is_its_own_neighbour(block):
    vectors = normal(31, 5)
    vectors[3] = vectors[19]
    distances, places = nearest(vectors, vectors, 3, skip_self=True)
    wanted = cdist(vectors, vectors)
    np.fill_diagonal(wanted, np.inf)
    assert distances == pytest.approx(np.sort(wanted, axis=1)[:, :3], rel=1e-12)
    assert (distances[3, 0], places[3, 0], places[19, 0]) == (0, 19, 3)


def test_a_copy_is_at_no_distance_however_long_the_vectors():
    vectors = normal(50, 300, mean=1e5)
    assert not nearest(vectors[::-1], vectors, 1)[0].any()


def test_features_may_lie_on_disk(tmp_path):
    vectors = normal(30, 5)
    np.save(tmp_path / "features.npy", vectors)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    assert np.array_equal(nearest(mapped, mapped, 2, True)[1], nearest(vectors, vectors, 2, True)[1])
    assert kernel_distance(mapped[:10], mapped[10:]) == kernel_distance(vectors[:10], vectors[10:])
    assert manifold_scores(mapped[:10], mapped[10:]) == manifold_scores(vectors[:10], vectors[10:])
    assert frechet_estimate(mapped[:10], mapped[10:]) == frechet_estimate(vectors[:10], vectors[10:])


def test_too_few_neighbours_and_spoilt_features_are_told():
    with pytest.raises(UserError, match="need 4 images, and there are 3"):
        nearest(normal(3, 2), normal(3, 2), 3, skip_self=True)
    spoilt = normal(9, 2)
    spoilt[4] = np.nan
    with pytest.raises(UserError, match="no finite numbers"):
        nearest(spoilt, normal(9, 2), 1)
    with pytest.raises(UserError, match="no finite numbers"):
        kernel_distance(spoilt, normal(9, 2))


# Kernel distance


def plain_kernel_distance(one, other):
    """Return what Gretton et al. write, from all kernel values at once."""

    def kernel(x, y):
        return (x.astype(np.float64) @ y.T.astype(np.float64) / x.shape[1] + 1) ** 3

    n, m = len(one), len(other)
    own, others = kernel(one, one), kernel(other, other)
    within = (own.sum() - np.trace(own)) / (n * (n - 1)) + (others.sum() - np.trace(others)) / (m * (m - 1))
    return within - 2 * kernel(one, other).mean()


def test_the_kernel_distance_is_that_of_all_pairs(block):
    one, other = normal(25, 6), normal(33, 6, 1, 0.4)
    assert kernel_distance(one, other).value == pytest.approx(plain_kernel_distance(one, other), rel=1e-10)


def test_its_draws_are_kernel_distances_of_halves(block):
    """With fewer groups than images, of unlike sizes."""
    one, other = normal(25, 6), normal(33, 6, 1, 0.4)
    blocks = np.arange(25) // 4, np.arange(33) // 3
    groups = groups_of(blocks[0], 25, 5), groups_of(blocks[1], 33, 5)
    keep = draws_of_two(*groups, 5)
    plain = [plain_kernel_distance(one[a[groups[0]]], other[b[groups[1]]]) for a, b in zip(*keep, strict=True)]
    found = kernel_distance(one, other, *blocks, seed=5)
    share = np.mean([each.mean() for each in keep])
    assert found.standard_error == pytest.approx(np.std(plain, ddof=1) * np.sqrt(share / (1 - share)), rel=1e-8)


def test_sets_of_one_kind_are_at_no_kernel_distance_on_average():
    found = np.array([kernel_distance(normal(30, 4, 2 * s), normal(30, 4, 2 * s + 1)).value for s in range(120)])
    assert abs(found.mean()) < 3 * found.std() / np.sqrt(len(found))
    assert (found < 0).mean() == pytest.approx(0.55, abs=0.2)


def test_one_image_has_no_kernel_distance():
    with pytest.raises(UserError, match="two images"):
        kernel_distance(normal(1, 4), normal(5, 4))


# Precision, recall, density, coverage


def plain_scores(real, fake, k):
    """Return the four as Kynkaanniemi et al. and Naeem et al. write them, from all distances at once."""
    real_radii, fake_radii = (np.sort(cdist(x, x), axis=1)[:, k] for x in (real, fake))
    inside = cdist(real, fake) <= real_radii[:, None] * (1 + 1e-9)
    recalled = (cdist(real, fake) <= fake_radii * (1 + 1e-9)).any(axis=1)
    return inside.any(axis=0).mean(), recalled.mean(), inside.sum() / (k * len(fake)), inside.any(axis=1).mean()


def values(found):
    return [part.value for part in vars(found).values()]


@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_four_scores_are_those_of_all_distances(block, k):
    real, fake = normal(30, 3), normal(22, 3, 1, 0.5, 0.7)
    assert values(manifold_scores(real, fake, k, k)) == pytest.approx(plain_scores(real, fake, k), rel=1e-12)


def test_neighbours_of_the_two_pairs_of_scores_differ():
    real, fake = normal(30, 3), normal(30, 3, 1, 0.5, 0.7)
    wanted = [*plain_scores(real, fake, 3)[:2], *plain_scores(real, fake, 5)[2:]]
    assert values(manifold_scores(real, fake)) == pytest.approx(wanted, rel=1e-12)


def test_what_is_missing_shows_in_recall_and_what_is_wrong_in_precision():
    here, there = normal(40, 4), normal(40, 4, 1, 50)
    both = np.concatenate([here[:20], there[:20]])
    missing = manifold_scores(both, here[20:])
    assert missing.recall.value <= 0.5 < 0.8 < missing.precision.value
    wrong = manifold_scores(here, both)
    assert wrong.precision.value == 0.5 and wrong.recall.value > 0.8
    assert values(manifold_scores(here, there)) == [0, 0, 0, 0]


@pytest.mark.parametrize("vectors", [normal(30, 200, mean=1e4), np.ones((30, 8), np.float32)], ids=["far", "constant"])
def test_copies_lie_on_the_edges_of_balls_and_count(block, vectors):
    found = manifold_scores(vectors, vectors[::-1])
    assert (found.precision.value, found.recall.value, found.coverage.value) == (1, 1, 1)
    assert np.isfinite([part.standard_error for part in vars(found).values()]).all()


def test_scores_of_too_few_images_are_told():
    with pytest.raises(UserError, match="need 6 images in each set, and one has 5"):
        manifold_scores(normal(5, 2), normal(50, 2))


def test_intervals_of_large_sets_come_from_fewer_images(monkeypatch):
    """And are narrowed: the error is still that of all images."""
    real, fake = normal(400, 4), normal(400, 4, 1, 0.5, 0.8)
    blocks = np.arange(400) // 4
    everything = manifold_scores(real, fake, real_blocks=blocks)
    monkeypatch.setattr(manifolds, "IMAGES_OF_DRAWS", 150)
    fewer = manifold_scores(real, fake, real_blocks=blocks)
    for name in ("precision", "recall", "density", "coverage"):
        one, other = getattr(everything, name), getattr(fewer, name)
        assert one.value == other.value
        assert one.standard_error != other.standard_error == pytest.approx(one.standard_error, rel=0.6)


def test_their_draws_are_scores_of_halves():
    real, fake = normal(30, 3), normal(34, 3, 1, 0.5, 0.7)
    blocks = np.arange(30) // 3, np.arange(34) // 2
    groups = groups_of(blocks[0], 30, 5), groups_of(blocks[1], 34, 5)
    keep = draws_of_two(*groups, 5)
    plain = [
        [*plain_scores(*halves, 3)[:2], *plain_scores(*halves, 5)[2:]]
        for halves in ((real[a[groups[0]]], fake[b[groups[1]]]) for a, b in zip(*keep, strict=True))
    ]
    found = manifold_scores(real, fake, 3, 5, *blocks, seed=5)
    share = np.mean([each.mean() for each in keep])
    wanted = np.std(plain, axis=0, ddof=1) * np.sqrt(share / (1 - share))
    assert [each.standard_error for each in vars(found).values()] == pytest.approx(wanted, rel=1e-6)


# Fréchet distance


def test_normal_distributions_are_at_the_distance_that_is_known():
    """Sum of (sqrt(a) - sqrt(b))^2 and of the squared differences of means."""
    scale = np.array([1, 2, 0.5, 3])
    one, other = normal(20_000, 4) * scale, normal(20_000, 4, 1) * 2 * scale + np.float32(0.5)
    known = np.square(scale).sum() + 4 * 0.25
    found = frechet_estimate(one, other)
    assert found.low < known < found.high
    assert found.standard_error < 0.02 * known


def dominated(count, width):
    """Return vectors with a direction a million times the others and some without any spread."""
    found = normal(count, width)
    found[:, 0] *= 1e3
    found[:, -3:] = 7
    return found


@pytest.mark.parametrize("count, other_count", [(20, 24), (60, 70), (20, 70), (200, 230)])
@pytest.mark.parametrize("make", [normal, dominated])
def test_distances_of_draws_are_those_of_their_images(make, count, other_count):
    """With features kept, with sums kept, with both, and with too few left for their dimensions."""
    one, other = make(count, 32), make(other_count, 32) + np.linspace(0, 1, 32, dtype=np.float32)
    groups = groups_of(np.arange(count) // 3, count, 0), groups_of(None, other_count, 0, 50)
    keep = draws_of_two(*groups, 0)
    value, found = frechet_of_draws((one, other), (np.arange(count), np.arange(other_count)), groups, keep)
    wanted = [
        frechet_distance(Moments.of(one[a[groups[0]]]), Moments.of(other[b[groups[1]]]))
        for a, b in zip(*keep, strict=True)
    ]
    assert value == pytest.approx(frechet_distance(Moments.of(one), Moments.of(other)), rel=1e-9)
    assert found == pytest.approx(wanted, rel=2e-4, abs=float(1e-6 * np.square(one).sum() / count))


def test_constant_sets_have_a_distance():
    found = frechet_estimate(np.ones((90, 3), np.float32), np.full((80, 3), 3, np.float32))
    assert (found.value, found.standard_error) == (12, 0)


def test_one_image_has_no_frechet_distance():
    with pytest.raises(UserError, match="two images"):
        frechet_estimate(normal(1, 3), normal(9, 3))


# Memorisation


def test_copies_are_found_and_named():
    train, held_out = normal(200, 16), normal(100, 16, 1)
    order = np.random.default_rng(0).permutation(200)
    found = memorised(train[order], train, held_out)
    assert (found.share_closer.value, found.share_closer.low, found.median_ratio.value) == (1, 1, 0)
    assert np.array_equal(found.nearest, order) and not found.ratios.any()


def test_other_real_images_have_the_expected_share():
    train, held_out, other = normal(300, 8), normal(400, 8, 1), normal(400, 8, 2)
    found = memorised(other, train, held_out)
    assert found.expected == 0.05
    assert found.share_closer.low < found.expected < found.share_closer.high
    assert found.median_ratio.low < 1 < found.median_ratio.high


def test_the_share_is_that_of_copies_among_new_images():
    train, held_out = normal(300, 32), normal(200, 32, 1)
    mixed = np.concatenate([train[:60], normal(140, 32, 2)])
    found = memorised(mixed, train, held_out)
    assert found.share_closer.value == pytest.approx(0.3 + 0.7 * 0.05, abs=0.04)
    assert found.share_closer.low > found.expected


def test_turned_copies_are_found_by_features_of_all_symmetries():
    import torch

    from aras.feature_spaces import FeatureSpace

    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 16, 5, stride=2), torch.nn.ReLU(), torch.nn.Conv2d(16, 24, 5, stride=2)]
    network = torch.nn.Sequential(*layers, torch.nn.Flatten())

    def space_features(images, symmetries):
        def described(batch):
            return network(batch.permute(0, 3, 1, 2) / 255)

        space = FeatureSpace("encoder", 600, "", "", described, torch.device("cpu"))
        return space.features(torch.from_numpy(images.copy()), symmetries).numpy()

    generator = np.random.default_rng(0)
    train, held_out = (generator.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) for n in (60, 40))
    copies = np.concatenate([np.rot90(train[:20], 1, (1, 2)), train[20:40, :, ::-1], train[40:, ::-1]])
    for symmetries, share in ((1, 0.2), (8, 1.0)):
        found = memorised(*(space_features(each, symmetries) for each in (copies, train, held_out)))
        assert found.share_closer.value == 1 if share == 1 else found.share_closer.value < share
    assert np.array_equal(found.nearest, np.arange(60))


def test_memorisation_that_cannot_be_told_is_refused():
    train = normal(50, 4)
    with pytest.raises(UserError, match="20 held-out images"):
        memorised(train, train, normal(19, 4, 1))
    with pytest.raises(UserError, match="30 of 30 held-out images are copies"):
        memorised(train, train, train[:30])


# By class


def test_the_dominant_class_is_that_of_most_pixels():
    labels = np.full((3, 4, 4), NO_DATA, np.uint8)
    labels[0, :3] = 2
    labels[0, 3] = 5
    labels[1, 0, 0] = 6
    assert dominant_classes(labels).tolist() == [2, 6, NO_DATA]


def test_each_class_has_the_distance_of_its_images():
    real, fake = normal(90, 5), normal(90, 5, 1, 1)
    classes = np.repeat([0, 2, 6], 30).astype(np.uint8)
    fake[classes == 2] += 3
    found = class_conditional_frechet(real, fake, classes, classes)
    for label, name in ((0, "Tree"), (2, "Grass"), (6, "Water")):
        of_class = classes == label
        wanted = frechet_distance(Moments.of(real[of_class]), Moments.of(fake[of_class]))
        assert found.classes[name].value == pytest.approx(wanted)
    assert found.classes["Grass"].low > found.classes["Tree"].high
    assert found.mean.value == pytest.approx(np.mean([each.value for each in found.classes.values()]))
    assert set(found.left_out) == {"Shrub", "Crop", "Built-up", "Barren"}


def test_classes_weigh_as_in_real_images_and_are_compared_at_equal_number():
    real_classes = np.repeat([0, 1, 3, NO_DATA], [60, 20, 5, 15]).astype(np.uint8)
    fake_classes = np.repeat([0, 1, 3], [20, 40, 40]).astype(np.uint8)
    found = class_conditional_frechet(normal(100, 3), normal(100, 3, 1, 1), real_classes, fake_classes)
    assert found.images == {"Tree": 20, "Shrub": 20}
    tree, shrub = (found.classes[name].value for name in ("Tree", "Shrub"))
    assert found.mean.value == pytest.approx(0.75 * tree + 0.25 * shrub)
    assert "5 images" in found.left_out["Crop"]
    counts = common_counts(real_classes, fake_classes, np.full(18, 1, np.uint8))
    assert counts.tolist() == [0, 18, 0, 0, 0, 0, 0]
    fewer = class_conditional_frechet(normal(100, 3), normal(100, 3, 1, 1), real_classes, fake_classes, counts)
    assert fewer.images == {"Shrub": 18}


def test_no_class_with_enough_images_is_told():
    few = np.arange(10, dtype=np.uint8) % 7
    with pytest.raises(UserError, match="no class is dominant in 16 masks"):
        class_conditional_frechet(normal(10, 3), normal(10, 3), few, few)


@pytest.mark.gpu
def test_a_gpu_gives_what_the_cpu_gives():
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    one, other, cuda = normal(2500, 40), normal(2300, 40, 1, 0.3), torch.device("cuda")
    assert np.array_equal(nearest(one, other, 4, device=cuda)[1], nearest(one, other, 4)[1])
    assert kernel_distance(one, other, device=cuda).value == pytest.approx(kernel_distance(one, other).value, rel=1e-9)
    assert values(manifold_scores(one, other, device=cuda)) == values(manifold_scores(one, other))
    assert memorised(one, one, other, device=cuda).share_closer.value == 1
