"""Gaussian processes of several groups, each of which learns from the others what they share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import linalg, optimize, special

SPREAD = 1.0  # prior variance of what sets a group apart as a whole
ROUNDS = (0.05, 0.02)  # how far from the best candidates further ones lie
FITTED = 128  # trials to which the parameters are fitted at most; all are used for the means


def propose(
    points: np.ndarray,
    groups: np.ndarray,
    scores: np.ndarray,
    group: int,
    count: int,
    *,
    random: np.random.Generator,
    pending: np.ndarray | None = None,
    choices: Sequence[int] = (),
    free: Sequence[bool] = (),
) -> np.ndarray:
    """Places where a group is likely to do better than its best.

    The expected improvement is maximized; each place takes into account that those before it, and
    the pending ones, will be known, though not what they will give.

    Args:
        points: Places of the trials so far in the unit cube, of shape `(trials, dimensions)`.
        groups: The group of each, an integer.
        scores: What each gave, less is better; not finite where it diverged.
        group: The group that asks.
        count: How many places it asks for.
        random: Draws the candidates.
        pending: Places of this group whose trials have begun and not ended.
        choices: By dimension, how many values without an order it has, 0 for a number.
        free: By dimension, whether this group has it; all by default.

    Returns:
        An array of shape `(count, dimensions)`.

    Example:

    >>> import numpy as np
    >>> from keras_adamfamily.tuning import gaussian
    >>> x = np.linspace(0, 1, 6)[:, None]
    >>> random = np.random.default_rng(0)
    >>> place = gaussian.propose(x, np.zeros(6, int), (x[:, 0] - 0.3) ** 2, 0, 1, random=random)
    >>> bool(abs(place.item() - 0.3) < 0.1)
    True
    """
    dimensions = points.shape[1]
    pending = np.empty((0, dimensions)) if pending is None else pending
    choices = np.zeros(dimensions, int) if len(choices) == 0 else np.asarray(choices)
    free = np.ones(dimensions, bool) if len(free) == 0 else np.asarray(free, bool)
    warped = np.empty(len(scores))
    for other in np.unique(groups):
        warped[groups == other] = _warped(scores[groups == other])
    process = Process(points, groups, warped, choices)
    own = points[groups == group]
    best = process.at(own if len(own) else points, group)[0].min()

    def near(places, each, distance):
        moved = np.repeat(places, each, axis=0)
        moved = np.abs(moved + random.normal(0.0, distance, moved.shape))
        return np.where(free, np.abs(1.0 - np.abs(1.0 - moved)), 0.5)  # mirrored at the ends

    leaders = [
        points[groups == other][np.argsort(warped[groups == other])[:2]]
        for other in np.unique(groups)
    ]
    pool = np.where(free, random.random((256, dimensions)), 0.5)
    pool = np.concatenate([pending, pool, near(np.concatenate(leaders), 24, 0.1)])
    mean, cross = process.at(pool, group)
    for distance in ROUNDS:
        worth = _improvement(mean, process.variance - (cross**2).sum(0), best)
        more = near(pool[np.argsort(-worth)[:4]], 12, distance)
        more_mean, more_cross = process.at(more, group)
        pool, mean = np.concatenate([pool, more]), np.concatenate([mean, more_mean])
        cross = np.concatenate([cross, more_cross], axis=1)

    variance = process.variance - (cross**2).sum(0)
    taken: list[int] = []
    for number in range(len(pending) + count):
        if number < len(pending):
            index = number
        else:
            worth = _improvement(mean, variance, best)
            worth[taken] = -math.inf  # the same place would give the same again
            index = int(np.argmax(worth))
        taken.append(index)
        # What is not known is taken for its mean, which leaves all means as they are.
        row = process.covariance(pool[[index]], pool, group) - cross[:, index] @ cross
        row /= math.sqrt(max(variance[index], 0.0) + process.noise)
        cross, variance = np.concatenate([cross, row]), variance - row[0] ** 2
        best = min(best, mean[index])
    return pool[taken[len(pending) :]]


class Process:
    """A Gaussian process over places and groups, fitted to the scores.

    Within a group the covariance is a Matern kernel (5/2) with a length for each dimension; between
    two groups it is that times the product of how typical each is. A group that is unlike the
    others gets close to 0 there, and is on its own. Lengths, amplitude, noise and likenesses are
    those of the greatest posterior density.
    """

    def __init__(self, points, groups, scores, choices):
        self.points, self.groups, self.choices = points, groups, choices
        distances = _distances(points, points, choices)
        same = groups[:, None] == groups
        dimensions, self._count = points.shape[1], int(groups.max()) + 1
        # Medians and spreads: of lengths, amplitude, noise (logarithms) and likeness (logit).
        length = math.log(0.5 * math.sqrt(dimensions / 2))
        self._middle = np.r_[
            np.full(dimensions, length), 0.0, math.log(0.05), np.full(self._count, 1.5)
        ]
        self._spread = np.r_[np.full(dimensions, 0.7), 1.0, 1.0, np.full(self._count, 1.5)]
        some = np.linspace(0, len(scores) - 1, min(len(scores), FITTED)).astype(int)
        some_of_all = np.ix_(some, some)
        found = optimize.minimize(
            self._loss,
            self._middle,
            args=(scores[some], groups[some], distances[some_of_all], same[some_of_all]),
            jac=True,
            method="L-BFGS-B",
            bounds=np.c_[self._middle - 4 * self._spread, self._middle + 4 * self._spread],
            options={"maxiter": 30},
        )
        self._lengths, self._amplitude, self.noise, self.likeness = self._parameters(found.x)
        self.variance = self._amplitude + SPREAD
        alike = _alike(self.likeness, groups, same)
        covariance = self._amplitude * alike * _matern(distances @ self._lengths**-2)
        covariance += SPREAD * same + self.noise * np.eye(len(scores))
        self._root = linalg.cholesky(covariance, lower=True)
        self._weights = linalg.cho_solve((self._root, True), scores)

    def at(self, places: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray]:
        """The means, and what is to be taken from the variance as a root, a column for each."""
        likeness = self.likeness[group] if group < self._count else special.expit(1.5)
        same = self.groups == group
        alike = np.where(same, 1.0, likeness * self.likeness[self.groups])
        scaled = _distances(self.points, places, self.choices) @ self._lengths**-2
        cross = self._amplitude * alike[:, None] * _matern(scaled) + SPREAD * same[:, None]
        return self._weights @ cross, linalg.solve_triangular(self._root, cross, lower=True)

    def covariance(self, a: np.ndarray, b: np.ndarray, group: int) -> np.ndarray:
        """The prior covariance of places of one group."""
        scaled = _distances(a, b, self.choices) @ self._lengths**-2
        return self._amplitude * _matern(scaled) + SPREAD

    def _parameters(self, vector):
        dimensions = self.points.shape[1]
        lengths, (amplitude, noise) = vector[:dimensions], vector[dimensions : dimensions + 2]
        likeness = special.expit(vector[dimensions + 2 :])
        return np.exp(lengths), math.exp(amplitude), math.exp(noise), likeness

    def _loss(self, vector, scores, groups, distances, same):
        """The negative logarithm of the posterior density, and its gradient."""
        lengths, amplitude, noise, likeness = self._parameters(vector)
        scaled = distances / lengths**2
        total = scaled.sum(-1)
        alike, matern = amplitude * _alike(likeness, groups, same), _matern(total)
        covariance = alike * matern + SPREAD * same + noise * np.eye(len(scores))
        root = linalg.cholesky(covariance, lower=True)
        inverse = linalg.cho_solve((root, True), np.eye(len(scores)))
        weights = inverse @ scores
        far = (vector - self._middle) / self._spread
        loss = 0.5 * scores @ weights + np.log(np.diag(root)).sum() + 0.5 * far @ far
        slope = 0.5 * (inverse - np.outer(weights, weights))
        steep = slope * alike * _matern_slope(total)
        between = (slope * alike * matern * ~same).sum(1)
        gradient = [
            np.einsum("ij,ijk->k", steep, scaled),
            [(slope * alike * matern).sum(), noise * np.trace(slope)],
            2 * np.bincount(groups, between, self._count) * (1 - likeness),
        ]
        return loss, np.concatenate(gradient) + far / self._spread


def _alike(likeness: np.ndarray, groups: np.ndarray, same: np.ndarray) -> np.ndarray:
    own = likeness[groups]
    return np.where(same, 1.0, own[:, None] * own)


def _warped(scores: np.ndarray) -> np.ndarray:
    """Scores with mean 0 and variance 1 in which the bad ones do not hide the good ones.

    The scale is the logarithm of the distance to the best. What diverged is worse than all else.
    """
    finite = np.isfinite(scores)
    if not finite.any():
        return np.zeros(len(scores))
    behind = scores - scores[finite].min()
    typical = np.median(behind[finite]) or 1.0
    warped = np.log1p(np.where(finite, behind, 0.0) / typical)
    warped[~finite] = warped.max() + 0.5
    return (warped - warped.mean()) / (warped.std() or 1.0)


def _improvement(mean: np.ndarray, variance: np.ndarray, best: float) -> np.ndarray:
    """The logarithm of the expected improvement, also where it is tiny."""
    deviation = np.sqrt(np.maximum(variance, 1e-12))
    z = (best - mean) / deviation
    density = -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
    expected = z * special.ndtr(z) + np.exp(density)
    tail = density - 2 * np.log(np.maximum(-z, 1.0))
    return np.log(deviation) + np.where(z < -6, tail, np.log(np.maximum(expected, 1e-300)))


def _distances(a: np.ndarray, b: np.ndarray, choices: np.ndarray) -> np.ndarray:
    """Squared distances by dimension; two different choices are at distance 1."""
    chosen = choices > 0
    a, b = (np.where(chosen, np.floor(np.minimum(x, 1 - 1e-9) * choices), x) for x in (a, b))
    difference = a[:, None] - b
    return np.where(chosen, difference != 0, difference**2)


def _matern(squared: np.ndarray) -> np.ndarray:
    r = np.sqrt(5 * squared)
    return (1 + r + r**2 / 3) * np.exp(-r)


def _matern_slope(squared: np.ndarray) -> np.ndarray:
    """Minus twice the derivative with respect to the squared distance."""
    r = np.sqrt(5 * squared)
    return 5 / 3 * (1 + r) * np.exp(-r)
