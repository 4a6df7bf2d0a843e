"""The report's colours: one a class, one a set, and others for what is left out."""

import numpy as np

from aras.legend import COLORS

CLASS_COLORS = ["#{:02x}{:02x}{:02x}".format(*color) for color in COLORS.tolist()]
"""The legend's, as a page has them."""

LEFT_OUT = ("#5d6470", "#ddcc77", "#882255", "#88ccee", "#332288", "#c5c9d0", "#777733", "#ee99aa", "#3b4049")
"""One a reason, dark and light by turns, so that narrow neighbours are told apart (after Tol 2021)."""

SET_COLORS = {
    "train": "#0072b2",
    "val": "#e69f00",
    "test": "#009e73",
    "synth": "#cc79a7",
    "generated": "#d55e00",
}
"""One a set: colours that colour-blind readers tell apart (Okabe and Ito 2008)."""


def colors_of_sets(names: list[str]) -> list[str]:
    """Return a colour for each of the sets `names`; the dataset's have theirs."""
    palette = ["#56b4e9", "#f0e442", "#7f7f7f", "#332288", "#882255", "#44aa99"]
    known = SET_COLORS | {"real": SET_COLORS["train"], "synthetic": SET_COLORS["synth"]}
    unknown = iter(np.resize(palette, len(names)).tolist())
    return [known.get(name) or next(unknown) for name in names]
