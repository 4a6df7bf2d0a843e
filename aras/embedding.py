"""Maps: vectors of hundreds of dimensions laid out on a plane, so that neighbours stay neighbours."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from aras.command import cores

FEWEST = 8
"""Vectors that make a map; of fewer, neither method finds neighbourhoods."""

EVERY = 25  # iterations between two moves of the progress bar


def tsne_map(features: np.ndarray, perplexity: float, seed: int) -> np.ndarray:
    """Return the t-SNE (N, 2) float32 of `features` (N, D) (van der Maaten and Hinton 2008, JMLR 9, 2579).

    By openTSNE: from the first two principal components, learning rate N / 12 and exaggeration 12 for the first 250 of
    750 iterations (Belkina et al. 2019, Nature Communications 10, 5415). From 10,000 vectors on, repulsion is
    interpolated on a grid (Linderman et al. 2019, Nature Methods 16, 243), whose time grows with N. The same seed and
    number of cores give the same map.
    """
    from openTSNE import TSNE
    from openTSNE.callbacks import Callback
    from tqdm import tqdm

    iterations = {"early_exaggeration_iter": 250, "n_iter": 500}
    with tqdm(total=sum(iterations.values()), desc="t-SNE", disable=None) as bar:

        class Progress(Callback):
            def __call__(self, iteration: int, error: float, embedding: Any) -> None:
                bar.update(EVERY)

        found = TSNE(
            perplexity=perplexity,
            initialization="pca",
            random_state=seed,
            n_jobs=cores(),
            callbacks=Progress(),
            callbacks_every_iters=EVERY,
            **iterations,
        ).fit(features)
    return np.asarray(found, np.float32)


def umap_map(features: np.ndarray, neighbors: int, min_dist: float, seed: int) -> np.ndarray:
    """Return the UMAP (N, 2) float32 of `features` (N, D) (McInnes et al. 2018, arXiv 1802.03426).

    By umap-learn, which must work in one thread for the same seed to give the same map.
    """
    import sys

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
        from umap import UMAP

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)  # of falling back to a random start for a few vectors
        return UMAP(
            n_neighbors=neighbors,
            min_dist=min_dist,
            random_state=seed,
            n_jobs=1,
            tqdm_kwds={"disable": not sys.stderr.isatty(), "desc": "UMAP"},
        ).fit_transform(features)


MAPS: dict[str, Callable[..., np.ndarray]] = {"tsne": tsne_map, "umap": umap_map}
