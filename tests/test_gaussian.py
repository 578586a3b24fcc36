"""The Gaussian processes that propose trials, on costs whose optimum is known."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("keras_tuner")

from keras_adamfamily.tuning import gaussian

OPTIMUM = np.array([0.3, 0.6])


def valley(points, optimum=OPTIMUM):
    return ((points - optimum) ** 2).sum(1)


def trials(counts, seed=0):
    """Random places of groups that have so many each."""
    groups = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(seed).random((len(groups), 2)), groups


def propose(points, groups, scores, group=0, count=4, **arguments):
    random = np.random.default_rng(1)
    return gaussian.propose(points, groups, scores, group, count, random=random, **arguments)


def fitted(points, groups, scores):
    warped = np.concatenate([gaussian._warped(scores[groups == g]) for g in np.unique(groups)])
    return gaussian.Process(points, groups, warped, np.zeros(2, int))


def test_gradient_of_what_is_minimized():
    points, groups = trials([7, 9, 4])
    process = fitted(points, groups, valley(points))
    choices = np.array([0, 3])
    distances, same = gaussian._distances(points, points, choices), groups[:, None] == groups
    at = process._middle + np.random.default_rng(2).normal(0, 0.5, len(process._middle))

    def loss(vector):
        return process._loss(vector, np.sin(9 * points[:, 0]), groups, distances, same)

    steps = 1e-5 * np.eye(len(at))
    slopes = [(loss(at + step)[0] - loss(at - step)[0]) / 2e-5 for step in steps]
    np.testing.assert_allclose(loss(at)[1], slopes, rtol=1e-5, atol=1e-5)


def test_the_mean_goes_through_the_scores_and_the_variance_vanishes_there():
    points, groups = trials([12])
    process = fitted(points, groups, valley(points))
    mean, cross = process.at(points, 0)
    np.testing.assert_allclose(mean, gaussian._warped(valley(points)), atol=0.3)
    left = process.variance - (cross**2).sum(0)
    far = process.variance - (process.at(np.array([[5.0, 5.0]]), 0)[1] ** 2).sum(0)
    assert (left > 0).all() and (left < 0.2 * far).all()


def test_a_group_learns_from_one_that_is_like_it():
    points, groups = trials([24, 24, 3])
    scores = valley(points) + 0.1 * groups
    together = propose(points, groups, scores, 2, 1)
    own = groups == 2
    alone = propose(points[own], groups[own], scores[own], 2, 1)
    assert valley(together)[0] < 0.02 < valley(alone)[0]


def test_a_group_is_on_its_own_where_the_others_are_unlike_it():
    points, groups = trials([12, 12, 12])
    elsewhere = 1 - OPTIMUM
    scores = np.where(groups == 2, valley(points, elsewhere), valley(points))
    likeness = fitted(points, groups, scores).likeness
    assert likeness[2] < 0.6 < 0.9 < likeness[:2].min()
    assert valley(propose(points, groups, scores, 2), elsewhere).min() < 0.02
    assert valley(propose(points, groups, scores, 0)).min() < 0.02


def test_units_of_the_scores_and_divergence_are_of_no_consequence():
    points, groups = trials([16])
    scores = valley(points)
    scores[np.argsort(scores)[-3:]] = np.inf
    proposed = propose(points, groups, scores)
    np.testing.assert_allclose(propose(points, groups, 1e3 * scores - 7e4), proposed, atol=1e-3)
    scores[np.isinf(scores)] = np.nan
    np.testing.assert_array_equal(propose(points, groups, scores), proposed)
    everything = np.full(16, np.nan)
    assert np.isfinite(propose(points, groups, everything)).all()


def test_places_of_a_block_are_apart_and_within_the_cube():
    points, groups = trials([16])
    corner = np.array([0.0, 1.0])
    proposed = propose(points, groups, valley(points, corner), count=16)
    assert proposed.min() >= 0 and proposed.max() <= 1
    assert len(np.unique(proposed, axis=0)) == 16
    assert valley(proposed, corner).min() < 0.01
    np.testing.assert_array_equal(
        propose(points, groups, valley(points, corner), count=5), proposed[:5]
    )


def test_what_is_pending_is_not_asked_for_again():
    points, groups = trials([5])
    (first,) = propose(points, groups, valley(points), count=1)
    (second,) = propose(points, groups, valley(points), count=1, pending=first[None])
    assert np.linalg.norm(first - second) > 0.05


def test_a_choice_has_no_order():
    random = np.random.default_rng(0)
    points = random.random((40, 2))
    chosen = np.floor(5 * points[:, 1])
    scores = (points[:, 0] - 0.3) ** 2 + np.array([0.5, 0.0, 0.5, 0.2, 0.4])[chosen.astype(int)]
    proposed = propose(points, np.zeros(40, int), scores, choices=[0, 5])
    assert (np.floor(5 * proposed[:, 1]) == 1).sum() >= 3
    np.testing.assert_array_equal(
        gaussian._distances(points[:1], points[:1] + [0.1, 0.0], np.array([0, 5])).round(9),
        [[[0.01, 0.0]]],
    )


def test_a_dimension_that_a_group_lacks():
    points, groups = trials([12, 12])
    points[groups == 1, 1] = 0.5
    proposed = propose(points, groups, valley(points), 1, free=[True, False])
    assert (proposed[:, 1] == 0.5).all() and np.abs(proposed[:, 0] - 0.3).min() < 0.1


def test_many_trials():
    points, groups = trials([150, 150, 150])
    assert valley(propose(points, groups, valley(points), 1)).max() < 0.01
