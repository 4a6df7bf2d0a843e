"""A report with every kind of part and two thousand cards, of drawn images, for the tests of the page."""

import base64
import io
import math

import numpy as np
from PIL import Image

from aras.legend import CLASS_NAMES, COLORS
from aras.report.page import (
    Bars,
    Caption,
    Card,
    Cards,
    Curve,
    Fact,
    Figure,
    Footprint,
    Footprints,
    Page,
    Part,
    Picture,
    Provenance,
    Provenances,
    Scatter,
    Section,
    Series,
    Sprite,
    Table,
)

SIDE = 64  # pixels of a sprite
ACROSS = 32  # sprites of a sheet's row
DISTINCT = 100  # images; more are those again
COLUMNS = 50  # patches of a row of the map
DEGREE = 0.0057  # side of a patch
SPLITS = ("train", "val", "test", "synth")
SPLIT_COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7"]
CLASS_COLORS = ["#{:02x}{:02x}{:02x}".format(*color) for color in COLORS]
HOSTILE = "<img src=x onerror=alert(1)> </script><script>alert(2)</script> & 'quoted' \"twice\""
"""What a caption may say, and must stay: text."""


LONG_PATH = "/data/aras400k/runs/" + "a_folder_with_a_long_name/" * 4 + "fidelity.json"


def data_uri(image: Image.Image, format: str = "WEBP", **options) -> str:
    """Return `image` as a data: URI."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return f"data:image/{format.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def fields(count: int, seed: int) -> np.ndarray:
    """Return smooth labels (count, SIDE, SIDE) uint8 of the seven classes."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    shape = (count, len(CLASS_NAMES), 1, 1)
    waves = [
        random.normal(size=shape) * np.sin(2 * math.pi * (k * x + (3 - k) * y) + random.uniform(0, 6.3, shape))
        for k in range(4)
    ]
    return (sum(waves) + random.normal(0, 0.7, shape)).argmax(axis=1).astype(np.uint8)


def sheets_of(images: np.ndarray, first: int, **options) -> tuple[list[Picture], list[Sprite]]:
    """Return sheets of `images` (N, SIDE, SIDE, 3) uint8, numbered from `first`, and the sprite of each image."""
    per_sheet = ACROSS * ACROSS
    sheets: list[Picture] = []
    sprites: list[Sprite] = []
    for start in range(0, len(images), per_sheet):
        sheet = np.zeros((ACROSS * SIDE, ACROSS * SIDE, 3), np.uint8)
        for k, image in enumerate(images[start : start + per_sheet]):
            y, x = SIDE * (k // ACROSS), SIDE * (k % ACROSS)
            sheet[y : y + SIDE, x : x + SIDE] = image
            sprites.append(Sprite(first + len(sheets), x, y, SIDE, SIDE))
        sheets.append(Picture(data_uri(Image.fromarray(sheet), **options), ACROSS * SIDE, ACROSS * SIDE, ""))
    return sheets, sprites


def example_page(count: int = 2000, points: int = 10000) -> Page:
    """Return a report of `count` cards and two maps of features of `points` images."""
    random = np.random.default_rng(7)
    distinct = min(DISTINCT, count)
    repeated = np.arange(count) % distinct
    labels = fields(distinct, 1)
    images = (0.45 * COLORS[labels] + 60 + random.normal(0, 14, (*labels.shape, 3))).clip(0, 255).astype(np.uint8)
    guesses = np.where(random.random(labels.shape) < 0.12, fields(distinct, 2), labels)
    sheets: list[Picture] = []
    sprites = []
    for kind, options in (
        (images, {"quality": 70}),
        (COLORS[labels], {"lossless": True, "method": 0}),
        (COLORS[guesses], {"lossless": True, "method": 0}),
    ):
        more, found = sheets_of(kind[repeated], len(sheets), **options)
        sheets += more
        sprites.append(found)
    cards = [card(k, labels[k % distinct], guesses[k % distinct], [kind[k] for kind in sprites]) for k in range(count)]
    maps = [scatter(name, points, sprites[0]) for name in ("t-SNE", "UMAP")]
    parts: dict[str, list[Part]] = {
        "overview": [table(), wide_table(), folded_table()],
        "map": [footprints(cards)],
        "balance": [bars(), fates()],
        "cards": [Cards(cards, list(CLASS_NAMES), CLASS_COLORS, list(SPLITS), "A seeded draw over the splits.")],
        "training": [*curves()],
        "features": [*maps],
        "fidelity": [figure()],
        "provenance": [provenances()],
    }
    sections = [Section(name, name.capitalize(), f"About {name}.", some) for name, some in parts.items()]
    sections.insert(5, Section("generated", "Generated", "", [], "python stylegan3/gen_images.py --seeds 0-63"))
    facts = [Fact("patches", f"{count:,}", "train, val and test"), Fact("macro F1", "58.4 %"), Fact(HOSTILE, "1")]
    return Page("ARAS400k", HOSTILE, "2026-11-23T10:00:00+00:00", facts, sections, sheets, [HOSTILE], True)


def card(k: int, labels: np.ndarray, guess: np.ndarray, sprites: list[Sprite]) -> Card:
    """Return card `k`: every fourth one, of the test split, has a prediction and a score."""
    shares = np.bincount(labels.ravel(), minlength=len(CLASS_NAMES)) / labels.size
    seen = [CLASS_NAMES[label] for label in np.argsort(-shares) if shares[label] >= 0.03]
    told = HOSTILE if k == 3 else f"Mostly {seen[0].lower()}, seen from above."
    split = SPLITS[k % 4]
    image, mask, prediction = sprites
    return Card(
        name=name_of(k),
        split=split,
        classes=seen,
        shares={name: float(share) for name, share in zip(CLASS_NAMES, shares, strict=True) if share},
        image=image,
        mask=mask,
        prediction=prediction if split == "test" else None,
        captions=[Caption("template", told)] + ([Caption("smollm2", "A quiet patch of land.")] if k % 2 else []),
        score=float((labels == guess).mean()) if split == "test" else None,
        confidence=None,
    )


def name_of(k: int) -> str:
    """Return the stem of image `k`."""
    return f"N52E012_{k // COLUMNS:03d}_{k % COLUMNS:03d}"


def footprints(cards: list[Card]) -> Footprints:
    """Return the map of the real ones of `cards`."""

    def place(k: int) -> tuple[float, float, float, float]:
        west, north = 12 + DEGREE * (k % COLUMNS), 52 - DEGREE * (k // COLUMNS)
        return west, north - DEGREE, west + DEGREE, north

    patches = [Footprint(one.name, one.split, *place(k), k) for k, one in enumerate(cards) if one.split != "synth"]
    rows = -(-len(cards) // COLUMNS)
    bounds = (12.0, 52 - DEGREE * rows, 12 + DEGREE * COLUMNS, 52.0)
    land = Image.effect_mandelbrot((500, 10 * rows), (-2, -1.2, 0.6, 1.2), 60).convert("RGB")
    mosaic = Picture(data_uri(land), *land.size, "")
    return Footprints("Patches by split", patches, list(SPLITS[:3]), SPLIT_COLORS[:3], mosaic, bounds, "A weak map.")


def table() -> Table:
    """Return a table with every mark."""
    columns = ["model", "F1", "IoU", "F1, paper"]
    rows = [
        ["Segformer", "77.1 ± 0.2", "65.3", "77.09"],
        ["FPN", "76.9", "65.0", "76.85"],
        ["real images", "2.09", "−1", "76"],
        ["PAN", "not run", "not run", "76.20"],
    ]
    marks = [
        ["", "best", "best", "paper"],
        ["", "", "", "paper"],
        ["floor", "floor", "floor", "paper"],
        ["", "missing", "missing", "paper"],
    ]
    return Table("Segmentation on test", columns, rows, marks, ["Means and 95 % intervals over three seeds."])


def wide_table() -> Table:
    """Return a table wider than a telephone, with a long text in it."""
    columns = ["", *(f"measure {k}" for k in range(1, 14)), "caption"]
    return Table(f"Sets, {LONG_PATH}", columns, [["synth", *["12.345"] * 13, HOSTILE]], [["best"] * len(columns)])


def folded_table() -> Table:
    """Return a table that is opened to be seen."""
    return Table("More models", ["model", "F1"], [["Unet", "not run"]], [["", "missing"]], ["A note."], folded=True)


def fates() -> Bars:
    """Return one bar with counts."""
    parts, counts = ["selected", "unsure"], [3750, 1250]
    values = [[count / sum(counts) for count in counts]]
    return Bars("Fates", ["all"], ["5,000 images"], parts, ["#009e73", "#ddcc77"], values, "By reason.", counts)


def bars() -> Bars:
    """Return the class balance of four sets."""
    values = np.random.default_rng(3).dirichlet(np.full(7, 0.8), 4).tolist()
    return Bars("Classes", list(SPLITS), ["500 images"] * 4, list(CLASS_NAMES), CLASS_COLORS, values, "Of all pixels.")


def curves() -> list[Curve]:
    """Return two curves, of lines of several lengths."""
    x = [float(epoch) for epoch in range(1, 41)]
    down = [1.2 * math.exp(-epoch / 9) + 0.3 for epoch in x]
    up = [0.6 - 0.5 * math.exp(-epoch / 7) for epoch in x]
    losses = [Series("train", x, down), Series("validation", x, [y + 0.05 for y in down])]
    scores = [Series("F1", x, up), Series("IoU", x[::2], [y - 0.1 for y in up[::2]]), Series("once", [7.0], [0.2])]
    return [
        Curve("Loss", "epoch", "loss", losses),
        Curve("Scores", "epoch", "score", [*scores, Series("never", [], [])]),
    ]


def scatter(title: str, count: int, sprites: list[Sprite]) -> Scatter:
    """Return a map of features of `count` images; those beyond the sprites have none."""
    random = np.random.default_rng(len(title))
    sets = random.integers(0, 3, count)
    x, y = random.normal(size=(2, count)) + 2.5 * sets
    shown = [sprites[k] if k < len(sprites) else None for k in range(count)]
    names = [name_of(k) for k in range(count)]
    return Scatter(title, list(SPLITS[:3]), SPLIT_COLORS[:3], x.tolist(), y.tolist(), sets.tolist(), names, shown)


def figure() -> Figure:
    """Return a wide figure."""
    image = Image.linear_gradient("L").resize((900, 300)).convert("RGB")
    return Figure("Spectra", Picture(data_uri(image, "PNG"), 900, 300, "power by radius"), "Log power by radius.")


def provenances() -> Provenances:
    """Return a run with an option that is an attempt at markup."""
    return Provenances(
        [
            Provenance(
                stage="segmentation_train",
                folder=LONG_PATH,
                command="python segmentation_train.py --epochs 18",
                commit="8387794",
                started="2026-11-22T12:00:00+00:00",
                device="cpu",
                versions={"torch": "2.15.0"},
                options={"epochs": "18", "name": HOSTILE},
            )
        ]
    )
