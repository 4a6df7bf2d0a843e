import csv
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from tiny_dataset import make_dataset

from aras.errors import UserError
from aras.legend import CLASS_NAMES, NUM_CLASSES, mask_image, read_mask
from aras.pairs import find_pairs
from aras.segmentation.sampling import MOST_LIFT, EpochOrder, balanced_weights, class_shares, mix_of
from aras.tables import PERCENTAGE_COLUMNS


def test_a_plain_epoch_is_a_permutation_drawn_from_seed_and_epoch():
    order = EpochOrder([5, 8], seed=3)
    assert len(order) == 13
    for epoch in (1, 2, 30):
        assert (order.order(epoch) == np.random.default_rng((3, epoch)).permutation(13)).all()


# -------------------------------------------------------------------------------------------------------------- mix


def test_a_mixed_epoch_has_the_first_set_once_and_the_others_in_their_ratio():
    order = EpochOrder([10, 50, 4], seed=1, mix=(1, 2, 0.5))
    assert len(order) == 10 + 20 + 5
    for epoch in (1, 2, 7):
        found = order.order(epoch)
        assert found.shape == (35,)
        assert sorted(found[found < 10]) == list(range(10))
        assert ((found >= 10) & (found < 60)).sum() == 20
        assert len(set(found[(found >= 10) & (found < 60)])) == 20
        last = Counter(found[found >= 60].tolist())
        assert sum(last.values()) == 5
        assert set(last) <= {60, 61, 62, 63}
        sets = np.searchsorted([10, 60], found, side="right")
        assert (np.diff(sets) != 0).sum() > 5  # one set does not follow the other


@pytest.mark.parametrize("size, share", [(50, 20), (7, 20), (20, 20), (23, 20), (3, 1)])
def test_no_image_comes_again_before_its_set_is_through_also_across_epochs(size, share):
    order = EpochOrder([20, size], seed=5, mix=(20, share))
    times = Counter(dict.fromkeys(range(20, 20 + size), 0))
    for epoch in range(1, 20):
        times.update(index for index in order.order(epoch).tolist() if index >= 20)
        assert max(times.values()) - min(times.values()) <= 1
        assert sum(times.values()) == share * epoch


def test_passes_differ_and_follow_from_the_seed_alone():
    first = [EpochOrder([6, 6], seed=1, mix=(1, 1)).order(epoch).tolist() for epoch in (1, 2, 3)]
    assert first == [EpochOrder([6, 6], seed=1, mix=(1, 1)).order(epoch).tolist() for epoch in (1, 2, 3)]
    assert first[0] != first[1] != first[2]
    assert first[0] != EpochOrder([6, 6], seed=2, mix=(1, 1)).order(1).tolist()


def test_a_set_with_a_small_number_still_gives_an_image():
    assert len(EpochOrder([10, 10], seed=0, mix=(1, 0.001))) == 11


@pytest.mark.parametrize(
    "text, reason",
    [
        ("1:two", "is not numbers with a colon between them, such as 1:2"),
        ("", "is not numbers"),
        ("1:0", "has a number that is not above 0; to leave a set out, leave out its --train"),
        ("1:-2", "not above 0"),
        ("1:nan", "not above 0"),
        ("1:inf", "not above 0"),
        ("1:2:3", "has 3 numbers for 2 --train sets; give one for each"),
        ("1", "has 1 numbers for 2"),
    ],
)
def test_a_mix_that_is_none_is_named(text, reason):
    with pytest.raises(ValueError, match=reason):
        mix_of(text, 2)


def test_a_mix_is_numbers():
    assert mix_of("1:2.5", 2) == (1, 2.5)


# --------------------------------------------------------------------------------------------------------- balanced


def skewed_shares(images=4000):
    """Return shares of images that are half Grass, some of them with a little of the rare classes."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet([0.6, 0.02, 1.5, 0.6, 0.03, 0.06, 0.1], images)
    return shares.astype(np.float32)


def test_balanced_epochs_have_more_of_the_rare_classes():
    shares = skewed_shares()
    weights = balanced_weights(shares)
    before, rarest = shares.mean(axis=0), shares.mean(axis=0).argmin()
    order = EpochOrder([len(shares)], seed=0, weights=[weights])
    after = np.mean([shares[order.order(epoch)].mean(axis=0) for epoch in (1, 2, 3)], axis=0)
    assert before[rarest] < 0.02
    assert after[rarest] > 2 * before[rarest]
    assert after[2] < before[2]  # the commonest makes room
    assert after.std() < before.std()


def test_the_weight_is_the_quadratic_mean_of_the_lifts_of_the_pixels():
    shares = np.eye(NUM_CLASSES)[[0, 0, 0, 2]]
    shares[0, [0, 2]] = 0.5
    by_hand = [np.sqrt(0.5 / 7 / 0.625 + 0.5 / 7 / 0.375), *[np.sqrt(1 / 7 / 0.625)] * 2, np.sqrt(1 / 7 / 0.375)]
    np.testing.assert_allclose(balanced_weights(shares), by_hand)


def test_one_image_of_a_class_does_not_fill_the_epochs():
    shares = np.zeros((100_000, NUM_CLASSES), np.float32)
    shares[:, 2], shares[0, 2], shares[0, 1] = 1, 0, 1
    weights = balanced_weights(shares)
    assert weights[0] == pytest.approx(MOST_LIFT)
    assert weights.max() / weights.min() <= MOST_LIFT * np.sqrt(NUM_CLASSES) * 1.001


def test_an_image_without_a_label_is_never_drawn():
    shares = skewed_shares(50)
    shares[7] = 0
    order = EpochOrder([50], seed=0, weights=[balanced_weights(shares)])
    assert 7 not in np.concatenate([order.order(epoch) for epoch in range(1, 40)])
    with pytest.raises(UserError, match="--sampling balanced: no mask has a labelled pixel"):
        balanced_weights(np.zeros((3, NUM_CLASSES)))


def test_balanced_draws_stay_within_each_set_and_follow_from_seed_and_epoch():
    weights = [np.ones(10), np.arange(40.0)]
    order = EpochOrder([10, 40], seed=4, mix=(1, 3), weights=weights)
    drawn = np.concatenate([order.order(epoch) for epoch in range(1, 200)])
    assert len(order) == 40
    assert (order.order(1) < 10).sum() == 10
    assert (drawn >= 10).sum() == 30 * 199
    assert 10 not in drawn  # of weight 0
    times = np.bincount(drawn[drawn >= 10] - 10, minlength=40)
    np.testing.assert_allclose(times / times.sum(), weights[1] / weights[1].sum(), atol=0.01)
    again = EpochOrder([10, 40], seed=4, mix=(1, 3), weights=weights)
    assert (order.order(2) == again.order(2)).all()
    assert (order.order(2) != again.order(3)).any()
    plain = EpochOrder([10, 40], seed=4, weights=weights)
    assert len(plain) == 50
    assert (plain.order(1) < 10).sum() == 10


# ----------------------------------------------------------------------------------------------------- class shares


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "ARAS400k", train=12)


def shares_by_hand(pairs):
    masks = [read_mask(pairs.mask(place)) for place in range(len(pairs))]
    return np.array([[(mask == c).mean() for c in range(NUM_CLASSES)] for mask in masks])


def write_table(path, rows, columns=PERCENTAGE_COLUMNS):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def test_shares_are_counted_in_the_masks_without_a_table(dataset, tmp_path):
    pairs = find_pairs(dataset, "train")
    labels = read_mask(pairs.mask(3))
    shutil.copy(pairs.mask(3), tmp_path / "kept.png")
    found = class_shares(pairs, tmp_path / "absent.csv")
    assert found.shape == (12, NUM_CLASSES)
    np.testing.assert_allclose(found, shares_by_hand(pairs), atol=1e-4)
    assert (labels == read_mask(pairs.mask(3))).all()


def test_shares_come_from_the_table_and_from_the_masks_for_what_it_lacks(dataset):
    pairs = find_pairs(dataset, "train")
    told = [(f"{pairs.names[0]}.png", 0, 0, 0, 0, 0, 0, 100), (pairs.names[1], 50, 50, 0, 0, 0, 0, 0)]
    table = write_table(dataset / "class_percentages" / "train.csv", told)
    for name in pairs.names[:2]:
        (dataset / "train" / "masks" / f"{name}.png").write_bytes(b"not read")
    found = class_shares(pairs, table)
    assert found[0].tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert found[1].tolist() == [0.5, 0.5, 0, 0, 0, 0, 0]
    for name in pairs.names[:2]:
        shutil.copy(pairs.mask(2), dataset / "train" / "masks" / f"{name}.png")
    np.testing.assert_allclose(found[2:], shares_by_hand(pairs)[2:], atol=1e-4)


def test_a_table_gives_what_the_masks_give(dataset, tmp_path):
    """The columns are found by their names, and both ways round to the same digit."""
    pairs = find_pairs(dataset, "train")
    columns = ("Water", "filename", *CLASS_NAMES[:-1])
    percent = np.round(shares_by_hand(pairs) * 100, 2)
    rows = [(row[-1], f"{name}.png", *row[:-1]) for name, row in zip(pairs.names, percent, strict=True)]
    table = write_table(tmp_path / "train.csv", rows, columns)
    assert (class_shares(pairs, table) == class_shares(pairs, tmp_path / "absent.csv")).all()


@pytest.mark.parametrize(
    "columns, row",
    [
        (PERCENTAGE_COLUMNS[:-1], ("a.png", 1, 2, 3, 4, 5, 6)),
        (PERCENTAGE_COLUMNS, ("a.png", 1, 2, "many", 4, 5, 6, 7)),
        (PERCENTAGE_COLUMNS, ("a.png", 1, 2)),
        (PERCENTAGE_COLUMNS, ("a.png", 1, 2, 3, 4, "nan", 6, 7)),
        (PERCENTAGE_COLUMNS, ("a.png", 1, 2, -3, 4, 5, 6, 7)),
        ((), ()),
    ],
)
def test_a_table_of_something_else_is_one_line(dataset, tmp_path, columns, row):
    table = write_table(tmp_path / "train.csv", [row], columns)
    with pytest.raises(UserError, match=r"train\.csv is not a table of class percentages .*delete it") as error:
        class_shares(find_pairs(dataset, "train"), table)
    assert "\n" not in str(error.value)


def test_a_table_that_is_no_text_is_one_line(dataset, tmp_path):
    (tmp_path / "train.csv").write_bytes(b"\xff\xfe\x00\x01" * 20)
    with pytest.raises(UserError, match=r"train\.csv is not a table"):
        class_shares(find_pairs(dataset, "train"), tmp_path / "train.csv")


def test_a_mask_that_cannot_be_used_is_named(dataset, tmp_path):
    pairs = find_pairs(dataset, "train")
    Image.new("L", (32, 32)).save(pairs.mask(5))
    with pytest.raises(UserError, match=r"N41E031_000_005.png is a L image"):
        class_shares(pairs, tmp_path / "absent.csv")
    mask_image(np.zeros((32, 32), np.uint8)).save(pairs.mask(5))
    assert class_shares(pairs, tmp_path / "absent.csv")[5].tolist() == [1, 0, 0, 0, 0, 0, 0]
