"""The figures of a training are pictures, show what they are given, and are the same bytes from the same numbers."""

import numpy as np
from PIL import Image

from aras.figures import draw_confusion, draw_curves
from aras.legend import CLASS_NAMES


def line(epoch, f1, classes):
    of_class = {name: (f1 if i < classes else None) for i, name in enumerate(CLASS_NAMES)}
    scores = {"f1": f1, "iou": f1 - 0.1, "accuracy": f1 + 0.1, "class_iou": of_class}
    return {"epoch": epoch, "train_loss": 1 / epoch, "val_loss": 1.1 / epoch, "lr": 1e-3, **scores}


def pixels_of(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def test_curves_follow_their_numbers(tmp_path):
    lines = [line(1, 0.3, 5), line(2, 0.6, 5), line(3, 0.5, 5)]
    for name, told in (("a", lines), ("again", lines), ("other", lines[:2]), ("one", lines[:1])):
        draw_curves(tmp_path / f"{name}.png", told)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "other.png").read_bytes()
    assert pixels_of(tmp_path / "one.png").std() > 5
    assert not list(tmp_path.glob("*.part"))


def test_the_confusion_matrix_is_dark_where_pixels_are(tmp_path):
    right = np.diag([900, 10, 10, 10, 10, 0, 10])
    wrong = np.roll(right, 3, axis=1)
    draw_confusion(tmp_path / "right.png", right, "right")
    draw_confusion(tmp_path / "wrong.png", wrong, "right")
    one, other = (pixels_of(tmp_path / f"{name}.png") for name in ("right", "wrong"))
    assert one.shape == other.shape
    assert (np.abs(one - other).sum(axis=2) > 100).mean() > 0.1
