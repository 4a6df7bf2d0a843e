"""Batches: made ready ahead, sorted by length, halved when memory runs out; sampling that does not depend on them."""

import numpy as np
import pytest
from PIL import Image

from aras.captions import batching
from aras.captions.batching import BatchSize, OutOfMemory, answers_in_batches, cleaned
from aras.captions.loop import CaptionError
from aras.captions.prompts import TEXT, Prompts
from aras.captions.work import Item
from aras.errors import UserError


def items_of(count):
    """Items with prompts of many lengths."""
    rng = np.random.default_rng(1)
    for i in range(count):
        shares = np.zeros(7)
        shares[: 1 + i % 7] = 100 / (1 + i % 7)
        yield Item(f"{i:04d}.png", percentages=tuple(rng.permutation(shares).tolist()))


def captions_of(items, answer, batch, tell=lambda line: None, prompts=None, with_image=False):
    found = {}
    for group in answers_in_batches(items, prompts or Prompts(TEXT), with_image, answer, batch, tell):
        assert not found.keys() & group.keys()
        found |= group
    return found


def test_batches_hold_prompts_of_like_length_and_every_item_once(monkeypatch):
    monkeypatch.setattr(batching, "WINDOW", 32)
    spreads = []

    def answer(batch):
        lengths = [len(asked.prompt.user) for asked in batch]
        spreads.append(max(lengths) - min(lengths))
        return [asked.name for asked in batch]

    found = captions_of(items_of(100), answer, BatchSize(8, 8))
    assert found == {f"{i:04d}.png": f"{i:04d}.png" for i in range(100)}
    assert len(spreads) == 3 * 4 + 1
    lengths = [len(Prompts(TEXT).of(item).user) for item in items_of(100)]
    assert np.mean(spreads) < 0.5 * (max(lengths) - min(lengths))


def test_no_more_is_taken_than_two_windows(monkeypatch):
    monkeypatch.setattr(batching, "WINDOW", 10)
    taken = []

    def noted():
        for item in items_of(100):
            taken.append(item.name)
            yield item

    groups = answers_in_batches(noted(), Prompts(TEXT), False, lambda b: [a.name for a in b], BatchSize(5, 5), print)
    next(groups)
    assert len(taken) == 20


def test_a_batch_is_halved_until_it_fits_and_the_user_is_told():
    sizes, told = [], []

    def answer(batch):
        sizes.append(len(batch))
        if len(batch) > 5:
            raise OutOfMemory("CUDA out of memory")
        return [asked.name for asked in batch]

    found = captions_of(items_of(40), answer, BatchSize(32, 32), told.append)
    assert len(found) == 40
    assert sizes[:4] == [32, 16, 8, 4]
    assert set(sizes[3:]) == {4}
    assert told == [f"out of GPU memory: goes on with --batch-size {size}" for size in (16, 8, 4)]


def test_memory_too_small_for_one_item_stops():
    def answer(batch):
        raise OutOfMemory("tried 9 GiB")

    with pytest.raises(UserError, match=r"tried 9 GiB.*smaller --model"):
        captions_of(items_of(3), answer, BatchSize(1, 1))


def test_auto_doubles_while_there_is_room():
    sizes = []

    def answer(batch):
        sizes.append(len(batch))
        if len(batch) > 10:
            raise OutOfMemory
        return [asked.name for asked in batch]

    captions_of(items_of(60), answer, BatchSize(2, 64))
    assert sizes[:5] == [2, 4, 8, 16, 8]
    assert set(sizes[5:-1]) == {8}


def test_an_image_that_cannot_be_read_fails_alone(tmp_path):
    for name in ("a", "b"):
        Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    items = [Item(f"{name}.png", image=tmp_path / f"{name}.png") for name in "abc"]
    found = captions_of(items, lambda b: [str(a.image.shape) for a in b], BatchSize(4, 4), with_image=True)
    assert found["a.png"] == "(8, 8, 3)"
    assert "not an image" in str(found["b.png"])
    assert "is missing" in str(found["c.png"])


def test_thoughts_are_taken_off():
    assert cleaned("<think>\nHm\n</think>\n\n A lake. ") == "A lake."
    assert isinstance(cleaned("<think> and on and on"), CaptionError)
    assert cleaned("A lake <think>") == "A lake <think>"


def test_draws_follow_from_seed_and_name():
    from aras.captions.sampling import draws_of

    both = draws_of(3, ["a.png", "b.png"], 5)
    assert (both[1] == draws_of(3, ["b.png"], 5)[0]).all()
    assert not np.allclose(both[0], both[1])
    assert not np.allclose(both[0], draws_of(4, ["a.png"], 5)[0])


def test_tokens_are_drawn_by_their_probability_within_the_nucleus():
    import torch

    from aras.captions.sampling import draw_tokens

    probability = torch.tensor([0.02, 0.5, 0.08, 0.3, 0.1])
    draws = (torch.arange(10_000) + 0.5) / 10_000
    tokens = draw_tokens(probability.log().expand(10_000, 5), draws, 1.0, 0.8)
    assert torch.bincount(tokens, minlength=5).tolist() == [0, 6250, 0, 3750, 0]
    tokens = draw_tokens(probability.log().expand(10_000, 5), draws, 1.0, 1.0)
    assert torch.bincount(tokens, minlength=5).tolist() == pytest.approx([200, 5000, 800, 3000, 1000], abs=1)
    tokens = draw_tokens(probability.log().expand(10_000, 5), draws, 0.5, 1.0)
    squares = probability**2 / (probability**2).sum()
    assert torch.bincount(tokens, minlength=5).tolist() == pytest.approx((1e4 * squares).tolist(), abs=2)
    assert draw_tokens(probability.log()[None], torch.tensor([0.99]), 1.0, 0.01).tolist() == [1]
