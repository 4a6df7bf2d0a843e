"""What the GANs draw: the newest grids of their runs, and the real images of StyleGAN's beside them."""

import re
from pathlib import Path

from aras.report.page import Part
from aras.report.pictures import Store
from aras.report.reading import Reader, number_of
from aras.report.training import MOST_RUNS, Run, figure_of

SNAPSHOT = re.compile(r"(?:fakes)?(\d+(?:\.\d+)?)\.png")


def generated_parts(runs: list[Run], store: Store, reader: Reader) -> list[Part]:
    """Return the newest grids of the first GAN runs of each kind."""
    parts: list[Part] = []
    for run in [run for run in runs if run.kind == "StyleGAN"][:MOST_RUNS]:
        newest = newest_of(run.folder)
        if newest:
            caption = f"After {told_kimg(newest)}. {run.name}"
            parts += figure_of(newest, "Images drawn by StyleGAN", store, reader, caption, lossless=False)
        parts += figure_of(run.folder / "reals.png", "Real images it learns from", store, reader, run.name, False)
    for run in [run for run in runs if run.kind == "Conditional GAN"][:MOST_RUNS]:
        newest = newest_of(run.folder / "samples")
        if newest:
            caption = f"Each row: a mask, the real image, and samples. After {told_kimg(newest)}. {run.name}"
            parts += figure_of(newest, "Images drawn from masks", store, reader, caption, lossless=False)
    return parts


def newest_of(folder: Path) -> Path | None:
    """Return the grid in `folder` that was drawn after the most images, None when there is none."""
    found = [path for path in folder.glob("*.png") if SNAPSHOT.fullmatch(path.name)]
    return max(found, key=lambda path: float(SNAPSHOT.fullmatch(path.name)[1]), default=None)  # type: ignore[index]


def told_kimg(path: Path) -> str:
    """Return how many images a grid was drawn after."""
    found = SNAPSHOT.fullmatch(path.name)
    kimg = number_of(found[1]) if found else None
    return f"{kimg:,.3f}".rstrip("0").rstrip(".") + " thousand images" if kimg is not None else ""
