import shutil

import numpy as np
import pytest
from PIL import Image
from tiny_dataset import make_dataset

from aras.errors import UserError
from aras.legend import NO_DATA
from aras.loading import PairSet, PaperAugmentation
from aras.pairs import find_pairs, read_image, read_pair


@pytest.fixture
def data(tmp_path):
    return make_dataset(tmp_path / "ARAS400k", train=5)


def first_files(data, split="train"):
    pairs = find_pairs(data, split)
    return pairs.image(0), pairs.mask(0)


def test_pairs_come_in_the_order_of_names_and_limit_takes_the_first(data):
    assert find_pairs(data, "train").names.tolist() == [f"N41E031_000_00{i}" for i in range(5)]
    assert len(find_pairs(data, "train", limit=2)) == 2
    assert first_files(data)[0] == data / "train" / "images" / "N41E031_000_000.png"


def test_a_missing_or_empty_folder_is_named(data):
    with pytest.raises(UserError, match="val/images is not a folder; check the path"):
        find_pairs(data, "val")
    (data / "val" / "images").mkdir(parents=True)
    with pytest.raises(UserError, match="val/images has no PNG"):
        find_pairs(data, "val")


def test_a_missing_mask_beyond_the_limit_does_not_matter(data):
    (data / "train" / "masks" / "N41E031_000_004.png").unlink()
    assert len(find_pairs(data, "train", 4)) == 4
    with pytest.raises(UserError, match=r"N41E031_000_004.png is missing \(1 of 5 images"):
        find_pairs(data, "train", 5)


def test_a_missing_mask_is_named(data):
    first_files(data)[1].unlink()
    with pytest.raises(UserError, match=r"masks/N41E031_000_000.png is missing \(1 of 5 images"):
        find_pairs(data, "train")


def test_masks_without_an_image_are_left_alone(data):
    first_files(data)[0].unlink()
    assert len(find_pairs(data, "train")) == 4


def test_generated_takes_the_names_that_have_a_mask(data):
    generated = data / "train" / "generated"
    generated.mkdir()
    image, _ = first_files(data)
    shutil.copy(image, generated / "elsewhere.png")
    with pytest.raises(UserError, match=r"no image of .*generated has a mask of its name"):
        find_pairs(data, "generated")
    shutil.copy(image, generated / image.name)
    pairs = find_pairs(data, "generated")
    assert pairs.image(0) == generated / image.name
    assert pairs.mask(0) == data / "train" / "masks" / image.name
    assert len(pairs) == 1


@pytest.mark.parametrize("which", ["image", "mask"])
@pytest.mark.parametrize("content", [b"", b"not a PNG", "half"])
def test_an_unreadable_file_is_named(data, which, content):
    files = first_files(data)
    path = files[which == "mask"]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content == "half" else content)
    with pytest.raises(UserError, match=f"{which}s/N41E031_000_000.png cannot be read") as error:
        read_pair(*files, (32, 32))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_an_image_that_is_not_of_8_bits_is_named(data, mode):
    image, _ = first_files(data)
    Image.new(mode, (32, 32), 1).save(image, format="TIFF")
    with pytest.raises(UserError, match=r"images/N41E031_000_000.png has pixels of mode (I;16|I|F); make it an 8-bit"):
        read_image(image)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_other_images_of_8_bits_are_read(data, mode):
    image, _ = first_files(data)
    with Image.open(image) as content:
        content.convert(mode).save(image)
    assert read_image(image).shape == (32, 32, 3)


def test_a_size_that_differs_is_named_width_first(data):
    image, mask = first_files(data)
    with pytest.raises(UserError, match=r"images/N41E031_000_000.png is 32x32 pixels where the others are 64x32"):
        read_pair(image, mask, (32, 64))
    Image.open(mask).resize((16, 32)).save(mask)
    with pytest.raises(UserError, match=r"masks/N41E031_000_000.png is 16x32 pixels"):
        read_pair(image, mask, (32, 32))


def test_an_unknown_colour_is_named_with_its_file(data):
    image, mask = first_files(data)
    colors = np.array(Image.open(mask).convert("RGB"))
    colors[3, 4] = (1, 2, 3)
    Image.fromarray(colors).save(mask)
    with pytest.raises(UserError, match=r"masks/N41E031_000_000.png has the colour \(1, 2, 3\)"):
        read_pair(image, mask, (32, 32))


def test_published_rgb_masks_read_as_palette_masks_do(tmp_path):
    palette, rgb = (make_dataset(tmp_path / str(i), rgb=bool(i), train=1) for i in range(2))
    one, other = (read_pair(*first_files(folder), (32, 32)) for folder in (palette, rgb))
    assert (one[0] == other[0]).all()
    assert (one[1] == other[1]).all()


def test_augmentation_follows_from_seed_epoch_and_index_alone(data):
    augment = PaperAugmentation()
    pairs = [find_pairs(data, "train")]
    one, other = PairSet(pairs, (32, 32), 5, augment), PairSet(pairs, (32, 32), 5, PaperAugmentation())
    keys = [(epoch, index, again) for epoch in (1, 2) for index in range(5) for again in (0, 1)]
    first = {key: one[key] for key in keys}
    for key in reversed(keys):
        for before, after in zip(first[key], other[key], strict=True):
            assert (before == after).all()
    assert any((first[1, i, 0][0] != first[2, i, 0][0]).any() for i in range(5))
    assert any((first[1, i, 0][0] != first[1, i, 1][0]).any() for i in range(5))


def test_the_eight_orientations_all_occur_and_mask_and_image_turn_together():
    """A seed dealt to each transform alike would flip both ways and turn, or do nothing."""
    augment = PaperAugmentation()
    labels = np.arange(4, dtype=np.uint8).reshape(2, 2)
    image = np.repeat(60 + 50 * labels[..., None], 3, axis=2)
    seen = set()
    for seed in range(200):
        turned, turned_labels = augment(image, labels, seed)
        seen.add(turned_labels.tobytes())
        assert (np.argsort(turned[..., 0].ravel(), kind="stable") == np.argsort(turned_labels.ravel())).all()
    assert len(seen) == 8


def test_two_sets_follow_each_other(tmp_path):
    data = make_dataset(tmp_path, train=3, synth=2)
    pairs = PairSet([find_pairs(data, "train"), find_pairs(data, "synth")], (32, 32))
    assert len(pairs) == 5
    image, labels = pairs[1, 3, 0]
    assert (image == np.asarray(Image.open(find_pairs(data, "synth").image(0)))).all()
    assert labels.max() < NO_DATA
