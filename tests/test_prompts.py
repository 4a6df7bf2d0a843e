"""What models are asked."""

import numpy as np
import pytest
from PIL import Image

from aras.captions.prompts import PROMPTS, TEXT, Prompts, check_prompt, has_numbers, told_percentages
from aras.captions.work import Item
from aras.errors import UserError
from aras.legend import mask_image

SHARES = (12.344, 0.0, 61.504, 0.3, 0.004, 25.847, 0.0)


def test_percentages_are_told_largest_first_without_zeros():
    assert told_percentages(SHARES) == "Grass: 61.50%, Barren: 25.85%, Tree: 12.34%, Crop: 0.30%"
    assert told_percentages(SHARES, decimals=0) == "Grass: 62%, Barren: 26%, Tree: 12%"
    assert told_percentages((50, 0, 50, 0, 0, 0, 0), 0) == "Tree: 50%, Grass: 50%"


@pytest.mark.parametrize("kind", PROMPTS)
def test_default_prompts_are_filled_in_whole(kind):
    prompt = Prompts(PROMPTS[kind]).of(Item("a.png", percentages=SHARES))
    assert "{" not in prompt.user + prompt.system
    assert ("Grass: 61.50%" in prompt.user) == (kind != "vision")


def test_layout_and_no_numbers_are_added(tmp_path):
    labels = np.full((32, 32), 2, dtype=np.uint8)
    labels[:8, :8] = 0
    mask_image(labels).save(tmp_path / "a.png")
    item = Item("a.png", percentages=(6.25, 0, 93.75, 0, 0, 0, 0), mask=tmp_path / "a.png")
    told = Prompts(TEXT, layout=True, numbers=False).of(item).user
    assert "Tree lies mostly in the north-west." in told
    assert "94%" not in told
    assert "Write no digits" in told
    assert "IMPORTANT" not in told
    assert "IMPORTANT" in Prompts(TEXT, numbers=False).sterner().of(item).user
    own = Prompts("{layout} and {percentages} {braces}", layout=True).of(item).user
    assert own.startswith("Tree lies mostly in the north-west.")
    assert own.endswith("and Grass: 93.75%, Tree: 6.25% {braces}")


def test_a_mask_that_cannot_be_read_is_told(tmp_path):
    Image.new("RGB", (4, 4), (1, 2, 3)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="not in the legend"):
        Prompts(TEXT, layout=True).of(Item("a.png", percentages=SHARES, mask=tmp_path / "a.png"))


def test_prompts_that_make_no_sense_are_told():
    check_prompt(Prompts(TEXT), percentages=True, only_percentages=True)
    check_prompt(Prompts("What is this?"), percentages=True, only_percentages=False)
    with pytest.raises(UserError, match="does not have"):
        check_prompt(Prompts(TEXT), percentages=False, only_percentages=False)
    with pytest.raises(UserError, match="asked the same"):
        check_prompt(Prompts("Hello"), percentages=True, only_percentages=True)
    with pytest.raises(UserError, match="--layout"):
        check_prompt(Prompts("{percentages} {layout}"), percentages=True, only_percentages=True)


def test_numbers_are_digits_and_percent():
    for caption in ("Grass covers 40 of it", "about ten percent", "ten per cent", "many %", "٣ trees"):
        assert has_numbers(caption)
    assert not has_numbers("Mostly grass, with a little water in the north-east.")
