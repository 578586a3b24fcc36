"""What a few runs can tell: intervals, a test, how much luck is in a search. Numbers only.

The choices were measured (`tests/test_leaderboard.py` repeats the essentials). A bootstrap interval
that claims 95 % covers the mean of 3 normal runs 73 % of the time, of 10 runs 91 %, of 20 runs
93 %; Student's interval covers it 95 % of the time, and covered skewed runs better as well. So the
bootstrap begins at `BOOTSTRAP_FROM` runs. The test of a difference is the permutation test: it
assumes no distribution, and it knows when runs are too few to tell anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special, stats

LEVEL = 0.95
SIGNIFICANCE = 0.05
BOOTSTRAP_FROM = 20
ROUNDING = 1e-12
PERMUTATIONS = 2**14  # all of them up to 14 pairs; beyond, as many at random


def interval(a: Sequence[float], b: Sequence[float] | None = None) -> tuple[float, float] | None:
    """Where the mean lies (of `a`, or of `a` minus that of `b`) with 95 % confidence.

    Student's (Welch's for two samples), or the bootstrap's BCa from 20 runs on; `None` for fewer
    than two. What differs by rounding alone is taken to be equal.
    """
    samples = [np.asarray(sample, float) for sample in (a, b) if sample is not None]
    if min(map(len, samples)) < 2:
        return None
    if all(np.ptp(sample) <= ROUNDING * np.abs(sample).max() for sample in samples):
        mean = float(_statistic(*samples))
        return mean, mean
    if min(map(len, samples)) >= BOOTSTRAP_FROM:
        found = stats.bootstrap(
            samples, _statistic, confidence_level=LEVEL, method="BCa", vectorized=True, rng=0
        ).confidence_interval
    elif b is None:
        found = stats.ttest_1samp(samples[0], 0.0).confidence_interval(LEVEL)
    else:
        found = stats.ttest_ind(*samples, equal_var=False).confidence_interval(LEVEL)
    return float(found.low), float(found.high)


def p_value(a: Sequence[float], b: Sequence[float] | None = None) -> float:
    """The two-sided permutation test of "the mean is 0", or "the means are equal".

    With one sample, which holds the differences of pairs, every sign is as likely as its opposite
    if the two sides of the pairs do not differ; with two, every way to deal out the runs is. It is
    exact where there are at most `PERMUTATIONS` ways.
    """
    samples = [np.asarray(sample, float) for sample in (a, b) if sample is not None]
    test = stats.permutation_test(
        samples,
        _statistic,
        permutation_type="samples" if b is None else "independent",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        rng=0,
    )
    return float(test.pvalue)


def smallest_p(n: int, m: int | None = None) -> float:
    """The smallest p-value that the test can give for n pairs, or for n and m runs."""
    return min(1.0, 2.0 / (2**n if m is None else math.comb(n + m, n)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: one of them all is below 0.05 by luck in at most 5 % of the cases."""
    order = np.argsort(p_values, kind="stable")
    adjusted, least = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = least
    return adjusted


def runs_needed(optimizers: int, paired: bool = True) -> int:
    """The fewest runs of each with which the test can tell one of so many optimizers from another.

    >>> [runs_needed(optimizers) for optimizers in (2, 3, 4, 5)]
    [6, 7, 8, 9]
    """
    pairs, n = math.comb(optimizers, 2), 1
    while pairs * smallest_p(n, None if paired else n) > SIGNIFICANCE:
        n += 1
    return n


def best_of(costs: Sequence[float], chance: float) -> list[float]:
    """By n = 1, 2, ...: a cost that the best of n of these trials reaches with this `chance`.

    Exact, over all ways to draw n of the trials without replacement. `math.inf` is the cost of a
    lost trial.

    >>> best_of([3.0, 1.0, 2.0], 0.5)
    [2.0, 1.0, 1.0]
    """
    ordered, curve = sorted(costs), []
    total = len(ordered)
    after = np.arange(total - 1, -1, -1.0)  # how many trials come after each place
    for n in range(1, total + 1):
        # The best of n lies beyond a place if all n come after it: C(after, n) of C(total, n) ways.
        beyond = np.where(
            after >= n, _log_ways(np.maximum(after, n), n) - _log_ways(total, n), -np.inf
        )
        curve.append(ordered[np.argmax(beyond <= np.log1p(-chance) + 1e-9)])
    return curve


def _log_ways(total: np.ndarray | float, n: float) -> np.ndarray:
    """The logarithm of the binomial coefficient."""
    return special.gammaln(total + 1) - special.gammaln(n + 1) - special.gammaln(total - n + 1)


def _statistic(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    means = [sample.mean(axis=axis) for sample in samples]
    return means[0] if len(means) == 1 else means[0] - means[1]
