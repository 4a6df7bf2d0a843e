"""How much of an image's composition its caption gives away.

A caption made from percentages can carry them into any model trained on it. How much is measured by a simple reader: a
ridge regression from the words (tf-idf) to the seven percentages, tried on captions of blocks that it has not seen; and
by one that also sees the percentages stated of each class.
"""

from typing import Any

import numpy as np

from aras.caption_metrics.claims import claims_of
from aras.caption_metrics.redundancy import NUMERAL, words_of
from aras.legend import NUM_CLASSES

FOLDS = 5
LEAST = 50  # captions
MOST_WORDS = 20_000
ALPHA = 1.0  # of the ridge; the rows of tf-idf have length 1
SCALE = 0.1  # of stated percentages, which a ridge then hardly shrinks


def leakage(captions: list[str], shares: np.ndarray, blocks: np.ndarray, seed: int) -> dict[str, Any] | None:
    """Return how well `captions` (N,) predict `shares` (N, 7) in percent, ready for JSON; None below `LEAST` captions.

    `r2` is the share of the composition's variance explained by the words without numbers, over all classes together;
    `error` the mean absolute error in percentage points; `error_of_mean` that of guessing the mean composition.
    `r2_with_numbers` and `error_with_numbers` are of the reader that sees stated percentages too.

    Args:
        captions: the captions.
        shares: percent of each class in their images.
        blocks: (N,) blocks of neighbouring images, which are not parted between training and trying.
        seed: of the folds.
    """
    groups = np.unique(blocks)
    folds = min(FOLDS, len(groups))
    if len(captions) < LEAST or folds < 2:
        return None
    fold_of_group = np.random.default_rng(seed).permutation(len(groups)) % folds
    fold = fold_of_group[np.searchsorted(groups, blocks)]
    guessed = np.empty_like(shares, dtype=float)
    for held in range(folds):
        guessed[fold == held] = shares[fold != held].mean(axis=0)
    found: dict[str, Any] = {"captions": len(captions), "folds": folds, "error_of_mean": error(guessed, shares)}
    stated = np.array([stated_of(caption) for caption in captions])
    for suffix, numbers in (("", np.zeros_like(stated)), ("_with_numbers", stated)):
        predicted = predictions(captions, numbers, shares, fold)
        found["r2" + suffix] = float(1 - ((predicted - shares) ** 2).sum() / max(((guessed - shares) ** 2).sum(), 1e-9))
        found["error" + suffix] = error(predicted, shares)
    return found


def predictions(captions: list[str], numbers: np.ndarray, shares: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Return `shares` (N, 7) as predicted from the captions' words and `numbers` (N, 7), each fold by the others."""
    from scipy.sparse import csr_array, hstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge

    predicted = np.empty(shares.shape)
    texts = np.array(captions, dtype=object)
    for held in np.unique(fold):
        inside, outside = fold != held, fold == held
        reader = TfidfVectorizer(analyzer=words_without_numbers, max_features=MOST_WORDS)
        seen = hstack([reader.fit_transform(texts[inside]), csr_array(numbers[inside])], format="csr")
        unseen = hstack([reader.transform(texts[outside]), csr_array(numbers[outside])], format="csr")
        predicted[outside] = Ridge(alpha=ALPHA, solver="sparse_cg").fit(seen, shares[inside]).predict(unseen)
    return predicted


def words_without_numbers(caption: str) -> list[str]:
    """Return the words of `caption` that are no numbers."""
    return [word for word in words_of(caption) if not NUMERAL.search(word)]


def stated_of(caption: str) -> np.ndarray:
    """Return the percentage (7,) that `caption` states of each class, times `SCALE`; 0 where it states none."""
    stated = np.zeros(NUM_CLASSES)
    for label, value in claims_of(caption).percentages:
        stated[label] = SCALE * value
    return stated


def error(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean absolute error."""
    return float(np.abs(predicted - truth).mean())
