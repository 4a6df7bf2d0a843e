"""Facts of a mask, on masks whose facts are plain to see."""

import numpy as np
import pytest

from aras.captions.layout import REGIONS, Layout, layout_facts, position_of, region
from aras.captions.rivers import river_of
from aras.legend import CLASS_NAMES, NUM_CLASSES

TREE, SHRUB, GRASS, CROP, BUILT, BARREN, WATER = range(NUM_CLASSES)


def mask(side=64, label=GRASS):
    return np.full((side, side), label, dtype=np.uint8)


def painted(*areas, side=64):
    """A field of grass with `areas` (label, rows, columns) painted over it."""
    labels = mask(side)
    for label, rows, columns in areas:
        labels[rows, columns] = label
    return labels


def band(angle, width=6, side=96):
    """Water along a line through the middle that runs at `angle` degrees, clockwise from west to east."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    labels = mask(side)
    labels[abs(x * np.sin(np.radians(angle)) - y * np.cos(np.radians(angle))) < width / 2] = WATER
    return labels


def test_shares_of_image_and_regions():
    layout = Layout(painted((TREE, slice(0, 32), slice(0, 32)), (WATER, slice(48, 64), slice(0, 64))))
    assert layout.shares == pytest.approx([25, 0, 50, 0, 0, 0, 25])
    assert layout.region_shares["north-west"][TREE] == 100
    assert layout.region_shares["south"][WATER] == 50
    assert layout.region_shares["centre"][TREE] == 25
    assert {name: shares.sum() for name, shares in layout.region_shares.items()} == dict.fromkeys(REGIONS, 100)


def test_regions_of_odd_sizes_are_within_the_image():
    labels = np.zeros((7, 9), dtype=np.uint8)
    assert region(labels, "north").shape == (3, 9)
    assert region(labels, "south").shape == (4, 9)
    assert region(labels, "centre").shape == (4, 4)


@pytest.mark.parametrize(
    ("rows", "columns", "where"),
    [
        (slice(2, 20), slice(2, 20), "north-west"),
        (slice(40, 60), slice(40, 60), "south-east"),
        (slice(40, 60), slice(2, 20), "south-west"),
        (slice(20, 44), slice(20, 44), "centre"),
        (slice(0, 10), slice(0, 64), "north"),
        (slice(0, 64), slice(50, 60), "east"),
        (slice(0, 64), slice(20, 44), ""),
    ],
)
def test_position_of_a_class(rows, columns, where):
    assert position_of(painted((WATER, rows, columns)) == WATER) == where


def test_what_covers_a_few_pixels_has_no_position_told():
    layout = Layout(painted((WATER, slice(0, 1), slice(0, 3)), (TREE, slice(40, 64), slice(0, 60))))
    assert layout.told == {GRASS: "", TREE: "south"}
    assert "Water" not in " ".join(layout_facts(layout))


def test_largest_area_is_connected_by_edges():
    labels = mask(label=CROP)
    labels[:32, :32] = labels[32:, 32:] = TREE  # two quarters that touch at a corner
    labels[32:, :32] = BARREN
    labels[0:2, 40:60] = WATER
    largest = Layout(labels).largest
    assert (CLASS_NAMES[largest.label], largest.percent, largest.position) == ("Tree", 25.0, "north-west")
    whole = Layout(mask()).largest
    assert (whole.label, whole.percent, whole.position) == (GRASS, 100.0, "")


def test_an_area_around_the_centre_is_not_at_the_centre():
    largest = Layout(painted((TREE, slice(12, 52), slice(12, 52)))).largest
    assert (largest.label, largest.position) == (GRASS, "")


@pytest.mark.parametrize(
    ("angle", "direction"),
    [
        (0, "west to east"),
        (10, "west to east"),
        (45, "north-west to south-east"),
        (90, "north to south"),
        (135, "north-east to south-west"),
        (175, "west to east"),
    ],
)
def test_rivers_run_the_way_they_are_drawn(angle, direction):
    (river,) = Layout(band(angle)).rivers
    assert river.direction == direction
    assert river.width == pytest.approx(6, abs=1.5)
    assert river.length == pytest.approx(
        96 / max(abs(np.cos(np.radians(angle))), abs(np.sin(np.radians(angle)))), rel=0.3
    )


def test_a_bent_river_is_linear_and_a_lake_is_not():
    bent = painted((WATER, slice(0, 48), slice(10, 14)), (WATER, slice(44, 48), slice(10, 60)))
    assert len(Layout(bent).rivers) == 1
    y, x = np.mgrid[:64, :64] - 31.5
    lake = mask()
    lake[x**2 + y**2 < 20**2] = WATER
    assert Layout(lake).rivers == []
    body = river_of(lake == WATER)
    assert body.length / body.width == pytest.approx(1.8, abs=0.4)
    assert Layout(mask(label=WATER)).rivers == []
    assert Layout(mask()).rivers == []
    assert Layout(painted((WATER, slice(3, 5), slice(3, 13)))).rivers == []  # a ditch of ten pixels


def test_water_around_an_island_and_wide_water_are_no_rivers():
    y, x = np.mgrid[:64, :64] - 31.5
    moat = mask()
    moat[abs(np.hypot(x, y) - 22) < 2] = WATER
    assert Layout(moat).rivers == []
    assert len(Layout(np.where(x < 0, moat, GRASS)).rivers) == 1  # half of it is a bend
    lake = mask(label=WATER)
    lake[16:48, 10:60] = GRASS
    assert Layout(lake).rivers == []
    assert Layout(painted((WATER, slice(20, 32), slice(0, 64)))).rivers == []


def test_borders_are_counted_by_edges():
    layout = Layout(painted((TREE, slice(0, 10), slice(0, 64)), (CROP, slice(20, 24), slice(20, 24))))
    assert layout.borders[TREE, GRASS] == layout.borders[GRASS, TREE] == 64
    assert layout.borders[CROP, GRASS] == 16
    assert layout.borders.trace() == 0
    assert layout.neighbour(GRASS) == TREE
    assert layout.neighbour(WATER) is None
    three = painted((TREE, slice(0, 20), slice(0, 64)), (CROP, slice(20, 24), slice(0, 30)))
    three[20:24, 30:] = BUILT
    assert Layout(three).neighbour(TREE) == BUILT  # 34 of 64 pixels
    three[20:24, 30:50] = BARREN
    assert Layout(three).neighbour(TREE) is None  # 30, 20 and 14


def test_facts_are_sentences_and_can_be_without_numbers():
    labels = painted((TREE, slice(0, 24), slice(0, 24)), (WATER, slice(0, 64), slice(56, 60)))
    facts = layout_facts(Layout(labels))
    assert "Tree lies mostly in the north-west." in facts
    assert "Water lies mostly in the east." in facts
    assert "A narrow strip of water runs north to south." in facts
    assert "Tree borders mostly on Grass." in facts
    assert any("73% of the image" in fact for fact in facts)
    assert not any(character.isdigit() for character in "".join(layout_facts(Layout(labels), numbers=False)))
    assert layout_facts(Layout(mask())) == ["The largest single area is Grass (100% of the image)."]
