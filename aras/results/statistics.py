"""What repeated trainings say: a mean with its interval, and whether one set of trainings is above another."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """The mean of `count` values; `margin` on both sides is its 95 % interval, None where one value allows none."""

    mean: float
    margin: float | None
    count: int

    def told(self, digits: int = 2) -> str:
        """Return it in words."""
        return f"{self.mean:.{digits}f}" + ("" if self.margin is None else f" ± {self.margin:.{digits}f}")


@dataclass(frozen=True)
class PairedTest:
    """How much the second of each pair is above the first.

    Attributes:
        difference: its mean over the pairs, with the t interval.
        t: two-sided p of Student's paired t test, None for fewer than two pairs or differences that are all one number.
        wilcoxon: two-sided p of Wilcoxon's signed-rank test, None for fewer than two pairs; 1 when nothing differs.
    """

    difference: Estimate
    t: float | None
    wilcoxon: float | None


def estimate(values: Iterable[float]) -> Estimate:
    """Return the mean of `values` and the margin of its 95 % interval by Student's t with n - 1 degrees of freedom.

    The interval is of trainings like these, whose seeds alone differ; it takes the values for draws from a normal
    distribution, which three of them cannot show.
    """
    from scipy.stats import t

    found = list(values)
    count = len(found)
    if count < 2:
        return Estimate(found[0], None, 1)
    return Estimate(mean(found), float(t.ppf((1 + LEVEL) / 2, count - 1)) * stdev(found) / count**0.5, count)


def paired_test(pairs: Sequence[tuple[float, float]]) -> PairedTest:
    """Return how much the second of each of `pairs` is above the first, and two tests that it is not (see PairedTest).

    Wilcoxon's is exact up to 50 pairs without ties, and leaves out pairs that do not differ; its smallest p is
    2 / 2**n, so three pairs cannot reach 0.05.
    """
    from scipy.stats import ttest_rel, wilcoxon

    first, second = zip(*pairs, strict=True)
    differences = [b - a for a, b in pairs]
    found = estimate(differences)
    if len(pairs) < 2:
        return PairedTest(found, None, None)
    t = float(ttest_rel(second, first).pvalue) if stdev(differences) > 0 else None
    rank = float(wilcoxon(second, first).pvalue) if any(differences) else 1.0
    return PairedTest(found, t, rank)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Return the p values of several tests, corrected so that the chance of any false finding stays below each level.

    A None, a test that could not be made, stays None and does not count. Source: S. Holm, "A simple sequentially
    rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979).
    """
    ordered = sorted((value, index) for index, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (value, index) in enumerate(ordered):
        highest = max(highest, min(1.0, value * (len(ordered) - rank)))
        corrected[index] = highest
    return corrected
