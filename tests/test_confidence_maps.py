import numpy as np
import pytest
from PIL import Image
from tiny_dataset import make_dataset

from aras.errors import UserError
from aras.legend import NO_DATA, read_mask
from aras.pairs import find_pairs, ignore_unsure


@pytest.fixture
def pairs(tmp_path):
    return find_pairs(make_dataset(tmp_path / "ARAS400k", synth=1), "synth")


@pytest.fixture
def sure(pairs):
    """The labels of a pair, and the file of its confidence map, whose values go from 0 to 255."""
    path = pairs.confidence(0)
    path.parent.mkdir()
    Image.fromarray(np.arange(1024).reshape(32, 32).astype(np.uint8)).save(path)
    return read_mask(pairs.mask(0)), path


@pytest.mark.parametrize("least, under", [(0, 0), (0.2, 51), (0.6, 153), (0.9, 230), (1, 255)])
def test_labels_that_are_not_sure_enough_are_ignored(pairs, sure, least, under):
    labels, path = sure
    before = labels.copy()
    assert path == pairs.images.parent.parent / "synth" / "confidence" / "N41E031_000_000.png"
    found = ignore_unsure(labels, path, least)
    unsure = np.arange(1024).reshape(32, 32) % 256 < under
    assert found.dtype == np.uint8
    assert (found[unsure] == NO_DATA).all()
    assert (found[~unsure] == labels[~unsure]).all()
    assert (labels == before).all()


@pytest.mark.parametrize(
    "content, reason",
    [
        (None, r"000.png is missing; write the maps with segmentation_predict.py --confidence-maps"),
        (b"not a PNG", r"000.png cannot be read \(not an image\); delete it and make it again with segmentation_p"),
        ("half", r"000.png cannot be read \(.*; delete it"),
        (Image.new("I;16", (32, 32)), r"000.png has pixels of mode I;16; a map is 8-bit grey \(L\)"),
        (Image.new("RGB", (32, 32)), r"000.png has pixels of mode RGB"),
        (Image.new("L", (32, 16)), r"000.png is 32x16 pixels where its mask is 32x32; delete it"),
    ],
)
def test_a_confidence_map_that_is_none_is_one_line(sure, content, reason):
    labels, path = sure
    if content is None:
        path.unlink()
    elif isinstance(content, Image.Image):
        content.save(path)
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content == "half" else content)
    with pytest.raises(UserError, match=reason) as error:
        ignore_unsure(labels, path, 0.5)
    assert "\n" not in str(error.value)


def test_a_missing_folder_of_confidence_maps_is_one_line(pairs):
    with pytest.raises(UserError, match=r"confidence/N41E031_000_000.png is missing; write the maps"):
        ignore_unsure(np.zeros((32, 32), np.uint8), pairs.confidence(0), 0.5)
