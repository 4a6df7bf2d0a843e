"""Captions that need no model are correct and varied."""

import re

import numpy as np
import pytest

from aras.captions.prompts import TEXT, Prompts, has_numbers
from aras.captions.template import AMOUNTS, NOUNS, generate, template_caption
from aras.captions.work import Item
from aras.legend import CLASS_NAMES, NUM_CLASSES, class_percentages, mask_image
from aras.patches import class_counts

CLASS_OF_NOUN = {noun: name for name, nouns in NOUNS.items() for noun in nouns}
NOUN = re.compile("|".join(sorted(CLASS_OF_NOUN, key=len, reverse=True)), re.IGNORECASE)


def drawn_items(count):
    """Items with one to seven classes."""
    rng = np.random.default_rng(0)
    for i in range(count):
        shares = rng.dirichlet(np.full(NUM_CLASSES, 0.3))
        shares[rng.permutation(NUM_CLASSES)[: rng.integers(0, NUM_CLASSES)]] = 0
        yield Item(f"{i:06d}.png", percentages=tuple(np.round(100 * shares / max(shares.sum(), 1e-9), 2).tolist()))


def test_every_class_is_named_once_with_its_share_and_no_other():
    for item in drawn_items(300):
        caption = template_caption(item)
        told = re.findall(rf"({NOUN.pattern})[^%]*?\(([\d.]+)%\)", caption, re.IGNORECASE)
        found = {CLASS_OF_NOUN[noun.lower()]: float(share) for noun, share in told}
        wanted = {name: share for name, share in zip(CLASS_NAMES, item.percentages, strict=True) if share}
        assert found == wanted, caption
        assert len(NOUN.findall(caption)) == len(wanted)


def test_the_amount_of_the_largest_class_is_true():
    limits = {amount: (least, most) for (least, amount), (most, _) in zip(AMOUNTS, ((100, ""), *AMOUNTS), strict=False)}
    for item in drawn_items(300):
        caption = template_caption(item, numbers=False)
        assert not has_numbers(caption)
        amount = next((amount for amount in limits if amount in caption.lower()), None)
        if amount is None:
            assert max(item.percentages) == 100
            continue
        assert limits[amount][0] <= max(item.percentages) <= limits[amount][1], caption


def test_captions_depend_on_the_name_and_on_nothing_else():
    items = list(drawn_items(200))
    (first,), (second,) = list(generate(items, Prompts(TEXT))), list(generate(reversed(items), Prompts(TEXT)))
    assert first == second
    same = [template_caption(Item(f"{i}.png", percentages=items[0].percentages), numbers=False) for i in range(100)]
    assert len(set(same)) > 10


def test_layout_is_told(tmp_path):
    labels = np.full((64, 64), 2, dtype=np.uint8)
    labels[:24, :24] = 0
    labels[:, 56:60] = 6
    mask_image(labels).save(tmp_path / "a.png")
    item = Item("a.png", percentages=tuple(class_percentages(class_counts(labels))), mask=tmp_path / "a.png")
    caption = template_caption(item, layout=True)
    assert re.search(r"(trees|woodland|forest) lies? mostly in the north-west\.", caption.lower())
    assert "A narrow strip of water runs north to south." in caption
    assert "strip" not in template_caption(item)


def test_a_mask_that_is_missing_fails_its_item_only(tmp_path):
    items = [Item("a.png", percentages=(100.0, 0, 0, 0, 0, 0, 0), mask=tmp_path / "a.png")]
    (answers,) = generate(items, Prompts(TEXT, layout=True))
    assert "a.png is missing" in str(answers["a.png"])
    (answers,) = generate(items, Prompts(TEXT))
    assert isinstance(answers["a.png"], str)


@pytest.mark.parametrize("count", [0, 999, 1000, 1001])
def test_groups_lose_nothing(count):
    items = [Item(f"{i}.png", percentages=(0.0, 0, 0, 0, 0, 0, 100)) for i in range(count)]
    assert sum(len(group) for group in generate(items, Prompts(TEXT))) == count
