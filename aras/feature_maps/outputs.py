"""What a comparison of sets writes, and whether what is there is its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aras.errors import UserError
from aras.files import read_json

METHODS = {"tsne": "t-SNE", "umap": "UMAP"}
"""The maps that can be made, and their names in full."""


@dataclass(frozen=True)
class Outputs:
    """Where everything goes."""

    folder: Path
    features: Path

    @property
    def scores(self) -> Path:
        """The silhouettes, and which images all outputs are of; written first and deleted last."""
        return self.folder / "silhouette.json"

    def coordinates(self, method: str) -> Path:
        """The points of a map."""
        return self.folder / f"{method}.csv"

    def figure(self, method: str) -> Path:
        """The figure of a map."""
        return self.folder / f"{method}_comparison.png"

    def thumbnails(self, method: str) -> Path:
        """The figure of a map with images."""
        return self.folder / f"{method}_thumbnails.png"

    @property
    def record(self) -> Path:
        """What made all this."""
        return self.folder / "run.json"

    @property
    def all(self) -> list[Path]:
        """Every file that a run may leave in the folder itself, the scores last."""
        kinds = (self.thumbnails, self.figure, self.coordinates)
        return [*(kind(method) for method in METHODS for kind in kinds), self.scores]

    def wanted(self, options: dict[str, Any]) -> list[Path]:
        """Return what a run with `options` leaves."""
        kinds = (self.coordinates, self.figure, *((self.thumbnails,) if options["thumbnails"] else ()))
        return [self.record, self.scores, *(kind(method) for method in options["method"] for kind in kinds)]

    def drop(self) -> None:
        """Delete what an earlier run left."""
        for path in self.all:
            path.unlink(missing_ok=True)


def check_not_foreign(outputs: Outputs) -> None:
    """Raise `UserError` when there are maps or scores that this script did not write."""
    for path in outputs.all if not outputs.record.exists() else ():
        if path.exists():
            raise UserError(
                f"{path} was not written by this script: there is no {outputs.record}; use another --outdir"
            )


def read_scores(path: Path) -> dict[str, Any]:
    """Return what the silhouette.json at `path` holds.

    Raises:
        UserError: it is not what a comparison writes.
    """
    scores = read_json(path)
    try:
        for told in scores["sets"]:
            _ = told["name"], told["key"]
        for values in (scores["overall"], *scores["pairs"]):
            _ = float(values["silhouette"]), float(values["standard_error"] or 0)
        whole = all(len(pair["sets"]) == 2 for pair in scores["pairs"])
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise UserError(f"{path} is not the silhouettes of a comparison; delete it, and the sets are compared again")
    return dict(scores)
