"""The seven land-cover classes: names, colours, WorldCover codes, and masks on disk.

A mask file is a palette PNG whose index is the label and whose palette is the legend, so viewers show the published
colours and `numpy.asarray` gives labels. Published masks (RGB) read as well. An unknown colour is an error.
"""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from aras.errors import UserError

CLASS_NAMES = ("Tree", "Shrub", "Grass", "Crop", "Built-up", "Barren", "Water")
NUM_CLASSES = len(CLASS_NAMES)
WATER = CLASS_NAMES.index("Water")
NO_DATA = 255
"""The label of pixels that have none; scores and losses ignore it."""

COLORS = np.array(
    [
        (0, 100, 0),
        (255, 182, 193),
        (154, 205, 50),
        (255, 215, 0),
        (139, 69, 19),
        (211, 211, 211),
        (0, 0, 255),
    ],
    dtype=np.uint8,
)  # (7, 3) red, green, blue, as published

# ESA WorldCover v200 code -> class. The paper's poster sends wetland (90) to Tree, its code and README to Grass.
CLASS_OF_CODE = {
    10: "Tree",
    20: "Shrub",
    30: "Grass",
    40: "Crop",
    50: "Built-up",
    60: "Barren",
    70: "Barren",
    80: "Water",
    90: "Grass",
    95: "Tree",
    100: "Grass",
}
UNKNOWN = 254
"""What the code table gives for a code that WorldCover does not have."""


def code_table() -> np.ndarray:
    """Return the table (256,) uint8 from WorldCover code to label: 0 is `NO_DATA`, codes of no class are `UNKNOWN`."""
    table = np.full(256, UNKNOWN, dtype=np.uint8)
    table[0] = NO_DATA
    for code, name in CLASS_OF_CODE.items():
        table[code] = CLASS_NAMES.index(name)
    return table


def labels_from_codes(codes: np.ndarray, where: str = "the map") -> np.ndarray:
    """Return labels (H, W) uint8 for WorldCover `codes` (H, W) uint8; no data is `NO_DATA`.

    Raises:
        UserError: a code that WorldCover does not have; `where` names the file.
    """
    labels = code_table()[codes]
    if (labels == UNKNOWN).any():
        code = int(codes[labels == UNKNOWN][0])
        raise UserError(f"{where} has the code {code}, which WorldCover does not have; is it a WorldCover map?")
    return labels


@cache
def _label_of_packed_color() -> np.ndarray:
    """Return the table (2**24,) uint8 from r << 16 | g << 8 | b to label, `UNKNOWN` for colours of no class."""
    table = np.full(1 << 24, UNKNOWN, dtype=np.uint8)
    table[COLORS.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)] = np.arange(NUM_CLASSES)
    return table


def labels_from_colors(colors: np.ndarray, where: str = "the mask") -> np.ndarray:
    """Return labels (..., ) uint8 for `colors` (..., 3) uint8.

    Raises:
        UserError: a colour that is not in the legend; `where` names the file.
    """
    packed = colors[..., 0].astype(np.uint32) << 16
    packed |= colors[..., 1].astype(np.uint32) << 8
    packed |= colors[..., 2]
    labels = _label_of_packed_color()[packed]
    if labels.size and labels.max() == UNKNOWN:
        r, g, b = (int(v) for v in colors[labels == UNKNOWN][0])
        raise UserError(f"{where} has the colour ({r}, {g}, {b}), which is not in the legend; make the mask again")
    return labels


def mask_image(labels: np.ndarray) -> Image.Image:
    """Return the palette image of `labels` (H, W) uint8; save it as PNG."""
    image = Image.fromarray(labels)
    image.putpalette(COLORS.tobytes())
    return image


def read_mask(path: Path) -> np.ndarray:
    """Return the labels (H, W) uint8 of the mask file `path`, palette or RGB.

    Raises:
        UserError: not an image, a grey image, a colour or index outside the legend.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode == "P":
                return _labels_of_palette_image(image, path)
            if image.mode in ("RGB", "RGBA"):
                return labels_from_colors(np.asarray(image)[..., :3], str(path))
            mode = image.mode
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damage
        if isinstance(error, FileNotFoundError):
            raise UserError(f"{path} is missing; every image needs its mask, so make the dataset again") from None
        raise UserError(f"{path} cannot be read ({error}); delete it and make it again") from None
    raise UserError(f"{path} is a {mode} image; a mask is a palette or RGB PNG in the legend's colours")


def _labels_of_palette_image(image: Image.Image, path: Path) -> np.ndarray:
    """Return the labels of a palette image, whatever the order of its palette."""
    index = np.array(image)  # (H, W) uint8
    palette = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    if len(palette) >= NUM_CLASSES and (palette[:NUM_CLASSES] == COLORS).all() and index.max() < NUM_CLASSES:
        return index
    if index.max() >= len(palette):
        raise UserError(f"{path} has the index {index.max()}, which its palette lacks; make the mask again")
    return labels_from_colors(palette[index], str(path))


def class_percentages(counts: np.ndarray) -> list[float]:
    """Return the percentage of each class, 2 decimals, from pixel `counts` (7,)."""
    total = counts.sum()
    return [round(100 * float(count) / total, 2) if total else 0.0 for count in counts]
