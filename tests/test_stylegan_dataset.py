"""Folders and zips of images as training sets: what is taken, in which order, and how it is told if it is not."""

import io
import json
import multiprocessing
import os
import pickle
import signal
import zipfile
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from stylegan_cache import PixelCache, default_cache_bytes
from stylegan_dataset import EndlessBatches, ImageDataset, loader, turned
from stylegan_errors import StyleganError

SIZE = 8


def picture(seed, size=SIZE, mode="RGB"):
    """Return an image of noise."""
    width, height = (size, size) if isinstance(size, int) else size
    shape = (height, width) if mode in ("L", "P") else (height, width, len(mode))
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8), mode)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write(folder, files):
    """Write `files`, bytes or images or JSON values by their paths from `folder`."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Image.Image):
            content = encoded(content)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


def zipped(path, folder, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.write(file, file.relative_to(folder))
    return path


@pytest.fixture
def images(tmp_path):
    """A folder of five images in two folders, whose labels are their numbers modulo 3."""
    files = {f"{'ab'[i % 2]}/{i}.png": picture(i) for i in range(5)}
    labels = {"labels": [[name, int(name[2]) % 3] for name in files]}
    return write(
        tmp_path / "images", files | {"dataset.json": labels, "notes.txt": b"", "a/._0.png": b"a twin of macOS"}
    )


def everything(dataset):
    return np.stack([dataset[i][0] for i in range(len(dataset))])


def plain(folder):
    """The images of a folder by Pillow alone."""
    files = sorted(path for path in folder.rglob("*.png") if not path.name.startswith("."))
    return np.stack([np.asarray(Image.open(path)).transpose(2, 0, 1) for path in files])


@pytest.mark.parametrize("compression", [None, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_folder_and_its_zip_are_one_set(images, tmp_path, compression):
    path = images if compression is None else zipped(tmp_path / "images.zip", images, compression)
    dataset = ImageDataset(path, cond=True)
    assert (dataset.name, dataset.resolution, dataset.channels, dataset.label_dim) == ("images", SIZE, 3, 3)
    assert np.array_equal(everything(dataset), plain(images))
    names = ["a/0", "a/2", "a/4", "b/1", "b/3"]
    assert [int(dataset[i][1].argmax()) for i in range(5)] == [int(name[2]) % 3 for name in names]
    assert dataset[0][1].dtype == np.float32
    assert dataset[0][1].sum() == 1


def test_the_name_is_that_of_the_folder(images, tmp_path, monkeypatch):
    monkeypatch.chdir(images)
    dotted = images.rename(tmp_path / "v1.0")
    assert ImageDataset(f"{dotted}/").name == "v1.0"
    assert ImageDataset(".").name == "v1.0"
    (tmp_path / "link").symlink_to(dotted)
    assert ImageDataset(tmp_path / "link").name == "link"


def test_mirror_doubles_and_dihedral_gives_the_eight_symmetries(images):
    single = everything(ImageDataset(images))
    mirrored = everything(ImageDataset(images, mirror=True))
    assert np.array_equal(mirrored, np.concatenate([single, single[..., ::-1]]))
    eight = everything(ImageDataset(images, mirror=True, dihedral=True)).reshape(8, 5, 3, SIZE, SIZE)
    wanted = [np.rot90(side, turns, (2, 3)) for turns in range(4) for side in (single, single[..., ::-1])]
    assert np.array_equal(eight, np.stack(wanted))
    assert len({image.tobytes() for image in eight[:, 0]}) == 8
    assert turned(single[0], 3).flags["C_CONTIGUOUS"]


def test_labels_stay_with_turned_images(images):
    once, eight = ImageDataset(images, cond=True), ImageDataset(images, cond=True, dihedral=True)
    assert all(np.array_equal(eight[i][1], once[i % 5][1]) for i in range(40))


def test_max_size_draws_by_the_seed(images):
    def some(seed):
        return everything(ImageDataset(images, max_size=3, seed=seed)).tobytes()

    assert some(0) == some(0)
    assert len({some(seed) for seed in range(10)}) > 1
    assert len(ImageDataset(images, max_size=3, mirror=True)) == 6
    assert len(ImageDataset(images, max_size=100)) == 5


def test_modes_become_rgb_if_the_first_image_is_in_color(tmp_path):
    grey, palette = picture(1, mode="L"), picture(2).quantize(16)
    opaque = picture(3, mode="RGBA")
    opaque.putalpha(255)
    files = {
        "0.png": picture(0),
        "1.png": grey,
        "2.png": palette,
        "3.png": opaque,
        "4.png": grey.point(lambda v: v, "1"),
    }
    folder = write(tmp_path, files | {"5.bmp": encoded(picture(5), "BMP"), "6.JPG": encoded(picture(6), "JPEG")})
    dataset = ImageDataset(folder)
    dataset.check(2, progress=False)
    wanted = [np.asarray(image.convert("RGB")).transpose(2, 0, 1) for image in files.values()]
    assert np.array_equal(everything(dataset)[:5], np.stack(wanted))
    assert len(dataset) == 7


def test_a_greyscale_set_has_one_channel(tmp_path):
    folder = write(tmp_path, {"0.png": picture(0, mode="L"), "1.png": picture(1, mode="L")})
    dataset = ImageDataset(folder)
    assert (dataset.channels, dataset[0][0].shape) == (1, (1, SIZE, SIZE))
    dataset.check(1, progress=False)
    write(folder, {"2.png": picture(2)})
    with pytest.raises(StyleganError, match=r"2\.png is in colour; the first image is greyscale"):
        ImageDataset(folder).check(1, progress=False)


def deep_png():
    import cv2

    return cv2.imencode(".png", np.full((SIZE, SIZE, 3), 40_000, np.uint16))[1].tobytes()


def clear_palette():
    return encoded(picture(1).quantize(16), transparency=0)


REFUSED = {
    "transparent": (lambda: picture(1, mode="RGBA"), "has transparent pixels"),
    "transparent color of a palette": (clear_palette, "has transparent pixels"),
    "16 bits": (lambda: Image.new("I;16", (SIZE, SIZE)), "16 bits a channel"),
    "16 bits of RGB": (deep_png, "16 bits a channel"),
    "CMYK": (lambda: encoded(picture(1, mode="CMYK"), "JPEG"), "mode CMYK"),
    "oblong": (lambda: picture(1, (8, 16)), "is 8 x 16 pixels, not square"),
    "odd size": (lambda: picture(1, 12), "is 12 x 12 pixels, not a power of two"),
    "another size": (lambda: picture(1, 16), "is 16 x 16 pixels; the first image is 8 x 8"),
    "empty": (lambda: b"", "is not a readable image"),
    "text": (lambda: b"not an image", "is not a readable image"),
    "cut off": (lambda: encoded(picture(1))[:-20], "is not a readable image"),
    "flipped bit": (lambda: encoded(picture(1)).replace(b"IDAT", b"IDAT\0", 1), "is not a readable image"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_used_is_named_by_the_check(tmp_path, kind):
    make, message = REFUSED[kind]
    folder = write(tmp_path, {"0.png": picture(0), "1.png": make()})
    with pytest.raises(StyleganError, match=message) as error:
        ImageDataset(folder).check(1, progress=False)
    assert "1 of 2 images cannot be used" in error.value.message
    assert f"{folder}/1.png" in error.value.message
    assert "\n" not in error.value.message


def test_the_first_image_must_be_good_at_once(tmp_path):
    with pytest.raises(StyleganError, match=r"0\.png is 8 x 16 pixels, not square; .*dataset_tool"):
        ImageDataset(write(tmp_path, {"0.png": picture(0, (8, 16))}))


def test_the_check_names_five_and_counts_the_rest(tmp_path):
    bad = {f"{i:03d}.png": picture(i, 16 if i % 2 else 8) for i in range(20)}
    with pytest.raises(StyleganError) as error:
        ImageDataset(write(tmp_path, bad)).check(3, progress=False)
    assert error.value.message.startswith("10 of 20 images cannot be used: ")
    assert [f"{i:03d}.png" in error.value.message for i in (1, 3, 5, 7, 9, 11)] == [True] * 5 + [False]
    assert "and 5 more" in error.value.message


def test_a_set_found_good_is_not_looked_at_again(images, tmp_path):
    record, path = tmp_path / "run" / "data.json", images / "b" / "3.png"
    ImageDataset(images).check(1, False, record)
    stat, size = path.stat(), path.stat().st_size
    path.write_bytes(b"x" * size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    ImageDataset(images).check(1, False, record)  # looks the same from outside: trusted
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with pytest.raises(StyleganError, match=r"3\.png"):
        ImageDataset(images).check(1, False, record)


def test_what_is_no_set_of_images(tmp_path):
    with pytest.raises(StyleganError, match=r"--data: Path must point to a directory or zip, and .* does not exist"):
        ImageDataset(tmp_path / "absent")
    with pytest.raises(StyleganError, match="--data: Path must point to a directory or zip"):
        ImageDataset(write(tmp_path, {"list.txt": b""}) / "list.txt")
    with pytest.raises(StyleganError, match="--data: No image files found in the specified path"):
        ImageDataset(tmp_path)
    with pytest.raises(StyleganError, match=r"torn\.zip is not a readable zip"):
        ImageDataset(write(tmp_path, {"torn.zip": b"PK\x03\x04 and no more"}) / "torn.zip")


LABELS = {
    "none": (None, "--cond=True requires labels specified in dataset.json"),
    "null": ({"labels": None}, "--cond=True requires labels specified in dataset.json"),
    "another form": ({"labels": [1, 2]}, "is not of the form"),
    "not JSON": (b"{", "is not of the form"),
    "one missing": ({"labels": [["0.png", 1]]}, r"has no label for 1 images \(1\.png\)"),
    "one too many": ({"labels": [["0.png", 1], ["1.png", 0], ["2.png", 0]]}, r"labels of 1 images \(2\.png\)"),
    "twice": ({"labels": [["0.png", 1], ["0.png", 0]]}, "label each once"),
    "mixed": ({"labels": [["0.png", 1], ["1.png", [1, 2]]]}, r"the label 1 for 0\.png"),
    "unequal": ({"labels": [["0.png", [1]], ["1.png", [1, 2]]]}, r"the label \[1, 2\] for 1\.png"),
    "negative": ({"labels": [["0.png", 1], ["1.png", -1]]}, "labels are classes"),
    "text": ({"labels": [["0.png", "tree"], ["1.png", "built"]]}, "labels are classes"),
    "infinite": (b'{"labels": [["0.png", [1.0]], ["1.png", [Infinity]]]}', "finite"),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_that_cannot_be_used(tmp_path, kind):
    content, message = LABELS[kind]
    files = {"0.png": picture(0), "1.png": picture(1)} | ({} if content is None else {"dataset.json": content})
    folder = write(tmp_path, files)
    with pytest.raises(StyleganError, match=message):
        ImageDataset(folder, cond=True)
    assert ImageDataset(folder).label_dim == 0


def test_vectors_are_labels_as_they_are(tmp_path):
    labels = {"labels": [["1.png", [0.5, -1]], ["0.png", [2, 3.25]]]}
    dataset = ImageDataset(
        write(tmp_path, {"0.png": picture(0), "1.png": picture(1), "dataset.json": labels}), cond=True
    )
    assert dataset.labels.tolist() == [[2, 3.25], [0.5, -1]]


def test_random_labels_are_those_of_images(images):
    dataset = ImageDataset(images, cond=True)
    drawn = dataset.random_labels(4000, torch.Generator().manual_seed(0))
    assert (drawn.shape, drawn.dtype) == ((4000, 3), torch.float32)
    assert torch.allclose(drawn.mean(0), torch.tensor([0.4, 0.4, 0.2]), atol=0.04)  # of 0, 2, 1, 1, 0
    assert ImageDataset(images).random_labels(7).shape == (7, 0)


def test_hostile_zips_are_refused(tmp_path):
    def made(name, compression=zipfile.ZIP_STORED):
        with zipfile.ZipFile(tmp_path / "x.zip", "w", compression) as archive:
            archive.writestr(name, encoded(picture(0)))
        return tmp_path / "x.zip"

    for name in ("../0.png", "/0.png", "a/../../0.png"):
        with pytest.raises(StyleganError, match="points outside it"):
            ImageDataset(made(name))
    with pytest.raises(StyleganError, match="neither stored nor deflated"):
        ImageDataset(made("0.png", zipfile.ZIP_BZIP2))
    locked = bytearray(made("0.png").read_bytes())
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "x.zip").write_bytes(locked)
    with pytest.raises(StyleganError, match="encrypted"):
        ImageDataset(tmp_path / "x.zip")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_is_named(images, tmp_path, compression):
    path = zipped(tmp_path / "images.zip", images, compression)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("b/1.png").header_offset
    content[start + 60 : start + 70] = bytes(10)
    path.write_bytes(content)
    with pytest.raises(StyleganError, match=r"images\.zip/b/1\.png is damaged"):
        ImageDataset(path).check(1, progress=False)


# batches


def indices(dataset, count, **options):
    return [list(batch) for batch in islice(EndlessBatches(dataset, **options), count)]


def test_each_epoch_has_every_image_once_in_another_order(images):
    dataset = ImageDataset(images, mirror=True)
    order = np.concatenate(indices(dataset, 10, batch=4))
    epochs = order.reshape(4, 10)
    assert (np.sort(epochs, axis=1) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4
    assert indices(dataset, 10, batch=4) == indices(dataset, 10, batch=4)
    assert indices(dataset, 10, batch=4) != indices(dataset, 10, batch=4, seed=1)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_shares_make_up_the_batch_and_a_run_goes_on_where_it_stopped(images, world_size):
    dataset = ImageDataset(images)
    whole = indices(dataset, 6, batch=8, seed=3)
    shares = [
        indices(dataset, 3, batch=8, rank=rank, world_size=world_size, seed=3, start_image=24)
        for rank in range(world_size)
    ]
    joined = [np.stack(parts, axis=1).ravel().tolist() for parts in zip(*shares, strict=True)]
    assert joined == whole[3:]
    with pytest.raises(StyleganError, match="multiple of the 3 processes"):
        EndlessBatches(dataset, 8, 0, 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_the_batches_images(images, workers):
    dataset = ImageDataset(images, cond=True, dihedral=True)
    before = torch.get_rng_state()
    batches = EndlessBatches(dataset, batch=70, seed=5)
    with_loader = loader(dataset, batches, workers)
    for wanted, (found, labels) in zip(islice(batches, 3), with_loader, strict=False):
        assert (found.dtype, found.shape) == (torch.uint8, (70, 3, SIZE, SIZE))
        assert np.array_equal(found.numpy(), np.stack([dataset[i][0] for i in wanted]))
        assert np.array_equal(labels.numpy(), np.stack([dataset[i][1] for i in wanted]))
    assert torch.equal(torch.get_rng_state(), before)
    with_loader.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_has_gone_bad_is_one_line(images, workers):
    dataset = ImageDataset(images)
    (images / "b" / "3.png").write_bytes(b"")
    with pytest.raises(StyleganError, match=r"^\S+b/3\.png is not a readable image \(of no known format\)$"):
        next(loader(dataset, EndlessBatches(dataset, 5), workers))


def test_a_killed_worker_is_one_line(images):
    dataset = ImageDataset(images)
    others = set(multiprocessing.active_children())  # of tests before this one
    batches = loader(dataset, EndlessBatches(dataset, 5), 1)
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - others
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(StyleganError, match="was killed"):
        for _ in range(10):
            next(batches)


# decoded images in memory


def test_the_cache_keeps_what_fits_and_survives_the_file(images):
    dataset = ImageDataset(images, cache_bytes=3 * (3 * SIZE * SIZE + 1))
    assert dataset.cache.slots == 3
    first = everything(dataset)
    for path in images.rglob("*.png"):
        path.unlink()
    assert np.array_equal(np.stack([dataset[i][0] for i in range(3)]), first[:3])
    with pytest.raises(StyleganError, match="cannot be read"):
        dataset[3]


def test_what_a_caller_does_to_pixels_stays_its_own(images):
    dataset = ImageDataset(images)
    before = dataset[0][0].copy()
    dataset[0][0][:] = 0
    assert np.array_equal(dataset[0][0], before)


def put_some(cache, value):
    cache.put(1, np.full(cache.shape, value, np.uint8))


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_processes_share_the_cache(start):
    cache = PixelCache((3, 4, 4), 10, 10**6)
    process = multiprocessing.get_context(start).Process(target=put_some, args=(cache, 7))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert np.array_equal(cache.get(1), np.full((3, 4, 4), 7))
    assert cache.get(0) is None
    assert cache.get(10) is None


def test_the_cache_takes_memory_as_images_come():
    cache = PixelCache((3, 256, 256), 10**6, 10**11)
    assert os.fstat(cache.file).st_blocks == 0
    cache.put(400_000, np.ones((3, 256, 256), np.uint8))
    assert os.fstat(cache.file).st_blocks * 512 < 10**6
    assert 2**26 < default_cache_bytes() < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert default_cache_bytes(4) < default_cache_bytes() / 3


def test_a_set_goes_to_another_process_whole(images, tmp_path):
    dataset = ImageDataset(zipped(tmp_path / "images.zip", images), cache_bytes=0)
    wanted = everything(dataset)
    assert np.array_equal(everything(pickle.loads(pickle.dumps(dataset))), wanted)
