"""Pictures of a conditional GAN show what they are given, and the same given is the same bytes."""

import numpy as np
import pytest
from PIL import Image
from tiny_dataset import make_dataset

from aras.legend import CLASS_NAMES, COLORS, read_mask
from aras.pairs import find_pairs, read_image
from aras.spade.grids import GAP, LINE, classes_of, draw_curves, draw_grid, draw_rows, grid_image, shown_pairs
from aras.training import share_cores

share_cores()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return find_pairs(make_dataset(tmp_path_factory.mktemp("tiny") / "ARAS400k", val=6), "val")


def pixels_of(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def grey(labels, items):
    """Return sample k of each mask as an even grey of 60 k."""
    import torch

    levels = torch.tensor([60 * k for _, k in items], dtype=torch.uint8).view(-1, 1, 1, 1)
    return levels.expand(-1, 3, *labels.shape[1:])


def test_a_grid_has_mask_real_image_and_samples_side_by_side(pairs, tmp_path):
    for name in ("grid", "again"):
        draw_grid(tmp_path / f"{name}.png", pairs, (32, 32), grey, rows=3)
    assert (tmp_path / "grid.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    grid, side = pixels_of(tmp_path / "grid.png"), 128  # 32 pixels, four times as large
    shown = shown_pairs(pairs, 3)
    assert len(shown) == 3
    for row, place in enumerate(shown):
        top = LINE + row * (LINE + side + GAP) + LINE
        cells = [grid[top : top + side, GAP + col * (side + GAP) :][:, :side][::4, ::4] for col in range(5)]
        assert np.array_equal(cells[0], COLORS[read_mask(pairs.mask(place))])
        assert np.array_equal(cells[1], read_image(pairs.image(place)))
        assert [int(cell.min()) for cell in cells[2:]] == [int(cell.max()) for cell in cells[2:]] == [0, 60, 120]
    assert grid.shape[1] == GAP + 5 * (side + GAP)


def test_a_grid_of_large_patches_is_not_enlarged():
    cells = [[np.zeros((256, 192, 3), np.uint8)] * 2]
    image = grid_image(cells, ["N41E031_000_000"], ["mask", "real"])
    assert image.size == (GAP + 2 * (192 + GAP), LINE + LINE + 256 + GAP + LINE + GAP)


def test_rows_show_classes_in_turn_and_stay_the_same(pairs):
    assert shown_pairs(pairs, 99) == list(range(6))
    assert shown_pairs(pairs, 2) == shown_pairs(pairs, 2)
    masks = [COLORS[np.uint8([[6, 0]])], COLORS[np.uint8([[3, 3]])]]
    assert classes_of(masks) == [CLASS_NAMES[c] for c in (0, 3, 6)]


def test_a_figure_of_rows_shows_its_pictures(tmp_path):
    masks, words = [COLORS[np.full((8, 8), c)] for c in (0, 6)], ("Title", "Told", "Attribution")
    names = ["N41E031_000_000", "N41E031_000_001"]
    for name, level in (("dark", 0), ("again", 0), ("light", 200)):
        rows = {"Mask": masks, "Sample": [np.full((8, 8, 3), level, np.uint8)] * 2}
        draw_rows(tmp_path / f"{name}.png", rows, names, words)
    assert (tmp_path / "dark.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    dark, light = (pixels_of(tmp_path / f"{name}.png").astype(int) for name in ("dark", "light"))
    assert 0.2 < (np.abs(dark - light).max(axis=2) == 200).mean() < 0.5
    assert all((dark == COLORS[c]).all(axis=2).mean() > 0.1 for c in (0, 6))


def line(kimg, **more):
    return {"kimg": kimg, "frechet": 9 / kimg, "discriminator_loss": kimg, "generator_loss": 1, "best": True} | more


def test_curves_follow_their_numbers_and_marks(tmp_path):
    lines = [line(1, diversity_levels=None), line(2, agreement_miou=0.4), line(3, images_per_second=5)]
    drawn = {
        "a": (lines, None),
        "again": (lines, {}),
        "marked": (lines, {"frechet_floor": 2.0, "ceiling_miou": 0.5}),
        "none": ([], None),
    }
    for name, (told, marks) in drawn.items():
        draw_curves(tmp_path / f"{name}.png", told, marks)
    content = {name: (tmp_path / f"{name}.png").read_bytes() for name in drawn}
    assert content["a"] == content["again"]
    assert len(set(content.values())) == len(drawn) - 1
    assert pixels_of(tmp_path / "a.png").std() > 5
    assert not list(tmp_path.glob("*.part"))
