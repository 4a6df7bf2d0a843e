"""How much of an image's composition its caption's words give away.

A caption made from percentages can carry them into any model trained on it. How much is measured by a simple reader: a
ridge regression from the words (tf-idf) to the seven percentages, tried on captions of blocks that it has not seen.
"""

from typing import Any

import numpy as np

from aras.caption_metrics.redundancy import NUMERAL, words_of

FOLDS = 5
LEAST = 50  # captions
MOST_WORDS = 20_000
ALPHA = 1.0  # of the ridge; the rows of tf-idf have length 1


def leakage(captions: list[str], shares: np.ndarray, blocks: np.ndarray, seed: int) -> dict[str, Any] | None:
    """Return how well `captions` (N,) predict `shares` (N, 7) in percent, ready for JSON; None below `LEAST` captions.

    `r2` is the share of the composition's variance explained, over all classes together; `error` the mean absolute
    error in percentage points; `error_of_mean` that of guessing the mean composition. Numbers count as words, rounded
    to integers; `r2_without_numbers` and `error_without_numbers` are those of a reader that does not see them.

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
    for suffix, tokens in (("", with_numbers), ("_without_numbers", without_numbers)):
        predicted = predictions(captions, shares, fold, tokens)
        found["r2" + suffix] = float(1 - ((predicted - shares) ** 2).sum() / max(((guessed - shares) ** 2).sum(), 1e-9))
        found["error" + suffix] = error(predicted, shares)
    return found


def predictions(captions: list[str], shares: np.ndarray, fold: np.ndarray, tokens: Any) -> np.ndarray:
    """Return `shares` (N, 7) as predicted from the `tokens` of the captions, each fold by the others."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge

    predicted = np.empty(shares.shape)
    texts = np.array(captions, dtype=object)
    for held in np.unique(fold):
        inside = fold != held
        reader = TfidfVectorizer(analyzer=tokens, max_features=MOST_WORDS)
        model = Ridge(alpha=ALPHA, solver="sparse_cg")
        model.fit(reader.fit_transform(texts[inside]), shares[inside])
        predicted[~inside] = model.predict(reader.transform(texts[~inside]))
    return predicted


def with_numbers(caption: str) -> list[str]:
    """Return the words of `caption`, its numbers rounded."""
    return [str(round(float(word))) if is_number(word) else word for word in words_of(caption)]


def without_numbers(caption: str) -> list[str]:
    """Return the words of `caption` that are no numbers."""
    return [word for word in words_of(caption) if not NUMERAL.search(word)]


def is_number(word: str) -> bool:
    """Return whether `word` is a number such as 12 or 12.5."""
    return word.replace(".", "", 1).isdecimal()


def error(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean absolute error."""
    return float(np.abs(predicted - truth).mean())
