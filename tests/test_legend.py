import numpy as np
import pytest
from PIL import Image

from aras import legend
from aras.errors import UserError


def test_every_worldcover_code_has_the_class_of_the_paper():
    codes = np.array([[0, 10, 20, 30, 40, 50], [60, 70, 80, 90, 95, 100]], dtype=np.uint8)
    named = [legend.CLASS_NAMES[i] if i < 7 else None for i in legend.labels_from_codes(codes).ravel()]
    assert named == [
        *(None, "Tree", "Shrub", "Grass", "Crop", "Built-up"),
        *("Barren", "Barren", "Water", "Grass", "Tree", "Grass"),
    ]


def test_unknown_code_is_an_error_that_names_the_file():
    with pytest.raises(UserError, match=r"map\.tif has the code 7,"):
        legend.labels_from_codes(np.array([[10, 7]], dtype=np.uint8), "map.tif")


def test_mask_shows_the_published_colors_and_reads_back(tmp_path):
    labels = np.random.default_rng(0).integers(0, 7, (20, 30), dtype=np.uint8)
    path = tmp_path / "mask.png"
    legend.mask_image(labels).save(path)
    with Image.open(path) as image:
        assert (np.asarray(image) == labels).all()
        assert (np.asarray(image.convert("RGB")) == legend.COLORS[labels]).all()
    assert (legend.read_mask(path) == labels).all()


def test_opencv_shows_the_published_colors(tmp_path):
    import cv2

    labels = np.arange(7, dtype=np.uint8)[None].repeat(2, axis=0)
    legend.mask_image(labels).save(tmp_path / "mask.png")
    assert (cv2.imread(str(tmp_path / "mask.png"))[..., ::-1] == legend.COLORS[labels]).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_published_color_masks_read_as_well(tmp_path, mode):
    labels = np.random.default_rng(1).integers(0, 7, (16, 16), dtype=np.uint8)
    Image.fromarray(legend.COLORS[labels]).convert(mode).save(tmp_path / "mask.png")
    assert (legend.read_mask(tmp_path / "mask.png") == labels).all()


def test_palette_in_another_order_reads_by_color(tmp_path):
    labels = np.array([[0, 3, 6]], dtype=np.uint8)
    Image.fromarray(legend.COLORS[labels]).quantize(3).save(tmp_path / "mask.png")
    assert (legend.read_mask(tmp_path / "mask.png") == labels).all()


@pytest.mark.parametrize("color", [(0, 0, 0), (0, 100, 1)])
def test_unknown_color_is_an_error_not_tree(tmp_path, color):
    image = Image.fromarray(legend.COLORS[np.zeros((8, 8), dtype=np.uint8)])
    image.putpixel((3, 4), color)
    image.save(tmp_path / "mask.png")
    with pytest.raises(UserError, match=r"mask\.png has the colour") as caught:
        legend.read_mask(tmp_path / "mask.png")
    assert str(color) in str(caught.value)


def test_an_index_outside_the_palette_is_an_error(tmp_path):
    labels = np.full((8, 8), 255, dtype=np.uint8)
    legend.mask_image(labels).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match=r"mask\.png has the"):
        legend.read_mask(tmp_path / "mask.png")


def test_bad_mask_files_are_named(tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    Image.new("L", (4, 4)).save(tmp_path / "grey.png")
    whole = tmp_path / "whole.png"
    legend.mask_image(np.random.default_rng(0).integers(0, 7, (64, 64), dtype=np.uint8)).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:200])
    for name in ("text.png", "grey.png", "cut.png", "absent.png"):
        with pytest.raises(UserError, match=name):
            legend.read_mask(tmp_path / name)


def test_percentages_add_up_and_have_two_decimals():
    assert legend.class_percentages(np.array([1, 2, 0, 0, 0, 0, 0])) == [33.33, 66.67, 0, 0, 0, 0, 0]
    assert legend.class_percentages(np.zeros(7, int)) == [0.0] * 7
