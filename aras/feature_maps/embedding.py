"""Maps: vectors of hundreds of dimensions laid out on a plane, so that neighbours stay neighbours.

Both start from `nearest_neighbors`, so one exact search serves the two; each follows from its seed.
"""

import csv
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from aras.command import cores
from aras.errors import UserError
from aras.files import write_text
from aras.rows import row_text

COLUMNS = ("set", "filename", "x", "y")
"""Of a table of a map."""

FEWEST = 8
"""Vectors that make a map; of fewer, neither method finds neighbourhoods."""

ITERATIONS = {"early_exaggeration_iter": 250, "n_iter": 500}
EVERY = 25  # iterations between two moves of the progress bar


def tsne_map(
    features: np.ndarray, indices: np.ndarray, distances: np.ndarray, perplexity: float, seed: int
) -> tuple[np.ndarray, float]:
    """Return the t-SNE (N, 2) of `features` (N, D), and its KL divergence.

    (van der Maaten and Hinton 2008, JMLR 9, 2579.) By openTSNE: from the first two principal components, learning rate
    N / 12 and exaggeration 12 for the first 250 of 750 iterations (Belkina et al. 2019, Nature Communications 10,
    5415). From 10,000 vectors on, repulsion is interpolated on a grid (Linderman et al. 2019, Nature Methods 16, 243),
    whose time grows with N alone.

    Args:
        features: (N, D) float32.
        indices: (N, 1 + K) nearest neighbours, each vector itself first, with K at least 3 times `perplexity`.
        distances: (N, 1 + K) to them.
        perplexity: the effective number of neighbours.
        seed: of the solver.
    """
    from openTSNE import TSNE
    from openTSNE.affinity import PerplexityBasedNN
    from openTSNE.nearest_neighbors import PrecomputedNeighbors
    from tqdm import tqdm

    count = int(3 * perplexity)
    nearest = PrecomputedNeighbors(
        indices[:, 1 : count + 1].astype(np.int64), distances[:, 1 : count + 1].astype(float)
    )
    affinities = PerplexityBasedNN(knn_index=nearest, perplexity=perplexity, n_jobs=cores())
    with tqdm(total=sum(ITERATIONS.values()), desc="t-SNE", disable=None) as bar:

        def tell(iteration: int, error: float, embedding: Any) -> None:
            bar.update(EVERY)

        found = TSNE(
            initialization="pca",
            random_state=seed,
            n_jobs=cores(),
            callbacks=tell,
            callbacks_every_iters=EVERY,
            **ITERATIONS,
        ).fit(features, affinities)
    return np.asarray(found), float(found.kl_divergence)


def umap_map(
    features: np.ndarray, indices: np.ndarray, distances: np.ndarray, neighbors: int, min_dist: float, seed: int
) -> np.ndarray:
    """Return the UMAP (N, 2) of `features` (N, D) (McInnes et al. 2018, arXiv 1802.03426).

    By umap-learn, which must work in one thread for the same seed to give the same map.

    Args:
        features: (N, D) float32.
        indices: (N, 1 + K) nearest neighbours, each vector itself first.
        distances: (N, 1 + K) to them.
        neighbors: how many of them to take, the vector itself counted; at most 1 + K.
        min_dist: the least distance of points on the map.
        seed: of everything random.
    """
    with warnings.catch_warnings():
        # That there is no Tensorflow; that the neighbours lack an index for new vectors; that few start at random.
        warnings.simplefilter("ignore")
        from umap import UMAP

        nearest = np.ascontiguousarray(indices[:, :neighbors]), np.ascontiguousarray(distances[:, :neighbors])
        return UMAP(
            n_neighbors=neighbors,
            min_dist=min_dist,
            random_state=seed,
            n_jobs=1,
            precomputed_knn=nearest,
            tqdm_kwds={"disable": not sys.stderr.isatty(), "desc": "UMAP"},
        ).fit_transform(features)


def write_map(path: Path, images: Iterable[tuple[str, str]], points: np.ndarray) -> None:
    """Write the map `points` (N, 2) as a table, with the set and file name of each of the `images` (N)."""
    rows = [(*image, f"{x:.6g}", f"{y:.6g}") for image, (x, y) in zip(images, points.tolist(), strict=True)]
    write_text(path, "".join(map(row_text, [COLUMNS, *rows])))


def read_map(path: Path, count: int) -> np.ndarray:
    """Return the map (N, 2) in the table at `path`.

    Raises:
        UserError: it has not `count` rows with numbers.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            points = np.array([(float(row["x"]), float(row["y"])) for row in csv.DictReader(file)])
    except (ValueError, KeyError, TypeError, csv.Error):
        points = np.empty(0)
    if points.shape != (count, 2) or not np.isfinite(points).all():
        raise UserError(f"{path} is not the map of these {count:,} images; delete it, and it is made again")
    return points
