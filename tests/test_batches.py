import itertools

import numpy as np
import pytest

import aras.distributed
from aras.ranks import Rank
from aras.segmentation.batches import EvalBatches, TrainBatches, occurrences
from aras.segmentation.sampling import EpochOrder


def batches_of(count=10, batch_size=4):
    return TrainBatches(EpochOrder([count], seed=3), batch_size)


@pytest.fixture
def on_rank(monkeypatch):
    """Return what a function of nothing returns on each of so many ranks."""

    def each(world, function):
        found = []
        for number in range(world):
            monkeypatch.setattr(aras.distributed, "_here", Rank(number, world))
            found.append(function())
        return found

    return each


def test_an_epoch_is_a_permutation_that_seed_and_epoch_decide():
    batches = batches_of()
    epochs = []
    for batches.epoch in (1, 2):
        keys = list(itertools.chain(*batches))
        assert {(epoch, repeat) for epoch, _, repeat in keys} == {(batches.epoch, 0)}
        assert sorted(index for _, index, _ in keys) == list(range(10))
        epochs.append([index for _, index, _ in keys])
    assert epochs[0] != epochs[1]
    again = batches_of()
    again.epoch = 2
    assert [index for batch in again for _, index, _ in batch] == epochs[1]


def test_a_last_batch_of_one_is_left_out_of_training_only():
    assert [len(batch) for batch in batches_of(9)] == [4, 4]
    assert [len(batch) for batch in EvalBatches(9, 4)] == [4, 4, 1]
    assert (len(batches_of(9)), len(batches_of(10)), len(EvalBatches(9, 4))) == (2, 3, 3)
    assert [batches_of(10).size(step) for step in range(3)] == [4, 4, 2]


def test_an_epoch_goes_on_from_any_step():
    whole = list(batches_of())
    rest = batches_of()
    for rest.start in range(4):
        assert list(rest) == whole[rest.start :]
        assert len(rest) == 3 - rest.start


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_out_the_batches_of_a_single_process(on_rank, world):
    whole = list(batches_of(11, 4))  # the last has three
    shares = on_rank(world, lambda: list(batches_of(11, 4)))
    for step, parts in enumerate(zip(*shares, strict=True)):
        assert list(itertools.chain(*parts)) == whole[step]
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_last_batch_with_fewer_images_than_ranks_is_left_out(on_rank):
    assert on_rank(3, lambda: len(batches_of(10, 4))) == [2, 2, 2]
    assert on_rank(2, lambda: len(batches_of(10, 4))) == [3, 3]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 12, 13])
def test_ranks_take_turns_at_a_splits_batches(on_rank, count):
    def read():
        batches = EvalBatches(count, 4)
        firsts = [batches.first(batch) for batch in range(len(batches))]
        return [[index for _, index, _ in batch] for batch in batches], firsts, batches.rounds

    found = on_rank(2, read)
    rounds = found[0][2]
    assert found[1][2] == rounds == len(found[0][0])
    in_turn = [lists[turn] for turn in range(rounds) for lists, _, _ in found if turn < len(lists)]
    assert list(itertools.chain(*in_turn)) == list(range(count))
    assert all(len(batch) == 4 for batch in in_turn[:-1])
    assert all(first == batch[0] for lists, firsts, _ in found for batch, first in zip(lists, firsts, strict=True))


def test_an_image_drawn_again_is_told_apart():
    assert occurrences(np.array([3, 1, 3, 3, 0, 1])).tolist() == [0, 0, 1, 2, 0, 1]
    assert not occurrences(np.random.default_rng(0).permutation(100)).any()
