import pytest

from aras import tiles

TURKIYE = (25.668510437000105, 35.81543000000018, 44.83476000000008, 42.10757000000004)


def test_the_papers_box_has_the_known_tiles():
    assert len(tiles.tiles_in_bbox(TURKIYE, 1)) == 160
    maps = tiles.tiles_in_bbox(TURKIYE, 3)
    assert len(maps) == 28  # 27 of them exist; one is all sea
    assert maps[0] == "N33E024"
    assert maps[-1] == "N42E042"


def test_edges_are_exclusive():
    assert tiles.tiles_in_bbox((30, 39, 31, 40), 1) == ["N39E030"]
    assert tiles.tiles_in_bbox((30, 39, 33, 42), 3) == ["N39E030"]


def test_all_four_hemispheres_and_the_180th_meridian():
    assert tiles.tiles_in_bbox((-0.5, -0.5, 0.5, 0.5), 1) == ["S01W001", "S01E000", "N00W001", "N00E000"]
    assert tiles.tiles_in_bbox((-0.5, -0.5, 0.5, 0.5), 3) == ["S03W003", "S03E000", "N00W003", "N00E000"]
    assert tiles.tiles_in_bbox((179.5, -17, -179.5, -16), 1) == ["S17E179", "S17W180"]


@pytest.mark.parametrize(
    ("lat", "lon", "name"),
    [(41, 31, "N39E030"), (39, 30, "N39E030"), (-1, -1, "S03W003"), (-3, -3, "S03W003"), (-4, 179, "S06E177")],
)
def test_map_corner_is_the_multiple_of_three_below(lat, lon, name):
    assert tiles.map_tile_of(lat, lon) == name


def test_names_go_there_and_back():
    for lat, lon in [(0, 0), (-1, -180), (41, 31), (89, 179)]:
        assert tiles.tile_corner(tiles.image_file(tiles.tile_name(lat, lon), 2021)) == (lat, lon)
    assert tiles.tile_corner("ESA_WorldCover_10m_2021_v200") is None
    assert tiles.patch_position(tiles.patch_name("N41E031", 12, 34) + ".png") == ("N41E031", 12, 34)
    assert tiles.patch_position("000000.png") is None
