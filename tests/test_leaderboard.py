"""The statistics are true: intervals cover, tests err as seldom as they say, words fit numbers."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
from scipy import stats

pytest.importorskip("keras_tuner")

from keras_adamfamily import tuning
from keras_adamfamily.tuning import comparison, evidence
from keras_adamfamily.tuning.leaderboard import comparisons, verdict
from tests.studies import WrittenStudy, finals, trial

# Intervals.


def coverage(draw, truth, repeats):
    found = [evidence.interval(draw()) for _ in range(repeats)]
    return np.mean([low <= truth <= high for low, high in found])


@pytest.mark.parametrize("n", [3, 8])
def test_intervals_cover_as_often_as_they_say(n):
    random = np.random.default_rng(0)
    assert coverage(lambda: random.normal(size=n), 0.0, 1000) == pytest.approx(0.95, abs=0.02)
    accuracy = coverage(lambda: random.binomial(360, 0.96, n) / 360, 0.96, 1000)
    assert accuracy == pytest.approx(0.95, abs=0.02)


@pytest.mark.slow
def test_the_bootstrap_begins_where_it_covers():
    random = np.random.default_rng(0)
    n = evidence.BOOTSTRAP_FROM
    assert coverage(lambda: random.normal(size=n), 0.0, 500) > 0.90
    few = [stats.bootstrap((random.normal(size=4),), np.mean, rng=0) for _ in range(200)]
    covered = [b.confidence_interval.low <= 0 <= b.confidence_interval.high for b in few]
    assert np.mean(covered) < 0.88  # why it is not used for few runs


def test_intervals_agree_with_scipy():
    a, b = np.random.default_rng(1).normal(size=(2, 25))
    few = stats.t.interval(0.95, 5, a[:6].mean(), stats.sem(a[:6]))
    assert evidence.interval(a[:6]) == pytest.approx(few)
    welch = stats.ttest_ind(a[:6], b[:4], equal_var=False).confidence_interval()
    assert evidence.interval(a[:6], b[:4]) == pytest.approx((welch.low, welch.high))
    bca = stats.bootstrap((a,), np.mean, method="BCa", rng=0).confidence_interval
    assert evidence.interval(a) == pytest.approx((bca.low, bca.high))
    assert evidence.interval(a) == evidence.interval(a)


def test_intervals_of_degenerate_runs():
    assert evidence.interval([0.5]) is None
    assert evidence.interval([0.5] * 3) == (0.5, 0.5)
    assert evidence.interval([0.5] * 30) == (0.5, 0.5)
    assert evidence.interval([0.5] * 3, [0.25] * 3) == (0.25, 0.25)


@pytest.mark.filterwarnings("error")
def test_intervals_of_runs_that_differ_by_rounding():
    for runs in ([0.3, 0.1 + 0.2, 0.3, 0.3], [0.5] * 19 + [np.nextafter(0.5, 1.0)]):
        assert evidence.interval(runs) == pytest.approx((runs[0], runs[0]), rel=1e-12)
        assert evidence.interval([1e-9 * run for run in runs])[0] == pytest.approx(1e-9 * runs[0])
    low, high = evidence.interval([0.0] * 19 + [0.01])
    assert 0.0 <= low < 0.0005 < high


# The test.


def test_p_value_counts_the_signs():
    """Against every assignment of signs, written out."""
    differences = np.random.default_rng(2).normal(0.5, 1.0, 7)
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((1, -1), repeat=7)]
    expected = np.mean([s >= abs(differences.sum()) - 1e-12 for s in sums])
    assert evidence.p_value(differences) == pytest.approx(expected)


def test_p_value_counts_the_ways_to_deal():
    a, b = [1.0, 4.0, 3.0], [5.0, 6.0, 3.5, 9.0]
    both, observed = np.array(a + b), abs(np.mean(a) - np.mean(b))
    gaps = []
    for chosen in itertools.combinations(range(7), 3):
        mask = np.isin(np.arange(7), chosen)
        gaps.append(both[mask].mean() - both[~mask].mean())
    below = np.mean(np.array(gaps) <= -observed + 1e-12)
    above = np.mean(np.array(gaps) >= observed - 1e-12)
    observed_sign = below if np.mean(a) < np.mean(b) else above
    assert evidence.p_value(a, b) == pytest.approx(min(1.0, 2 * observed_sign))


@pytest.mark.parametrize("n", [2, 3, 6])
def test_smallest_p_is_reached_and_no_smaller(n):
    assert evidence.p_value(np.arange(1.0, n + 1)) == pytest.approx(evidence.smallest_p(n))
    assert evidence.p_value(np.arange(n), 100.0 + np.arange(n)) == pytest.approx(
        evidence.smallest_p(n, n)
    )


def test_p_value_of_no_difference_is_one():
    assert evidence.p_value([0.0, 0.0, 0.0]) == 1.0
    assert evidence.p_value([0.5, 0.5], [0.5, 0.5]) == 1.0


def test_holm_against_its_definition():
    p = [0.01, 0.04, 0.03, 0.5]
    assert evidence.holm(p) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert evidence.holm([0.9, 0.8]) == [1.0, 1.0]
    assert evidence.holm([]) == []


def test_runs_needed():
    for optimizers in (2, 3, 4, 13):
        n, pairs = evidence.runs_needed(optimizers), math.comb(optimizers, 2)
        assert pairs * evidence.smallest_p(n) <= 0.05 < pairs * evidence.smallest_p(n - 1)
    assert evidence.runs_needed(2) == 6
    assert evidence.runs_needed(2, paired=False) == 4  # 2 of C(8, 4) ways


@pytest.mark.parametrize(
    "optimizers",
    [
        ("Adam", "AdamW"),
        pytest.param(("Adam", "AdamW", "NAdamW", "SGDW"), marks=pytest.mark.slow),
    ],
)
def test_equal_optimizers_are_seldom_told_apart(optimizers):
    """The leader is picked after the runs; even so, one error in at most 5 % of the studies."""
    random, errors = np.random.default_rng(3), 0
    for _ in range(200):
        luck = random.normal(size=8)
        study = finals({name: list(luck + random.normal(size=8)) for name in optimizers})
        errors += any(c.is_told_apart for c in comparisons(study.leaderboard()))
    assert errors <= 18  # P(more | 5 %) = 0.7 %


def test_a_real_difference_is_found_because_runs_are_paired():
    """A difference that is a tenth of the luck of a seed, which both optimizers share."""
    random = np.random.default_rng(4)
    luck = random.normal(size=8)
    study = finals({"SGDW": list(luck), "AdamW": list(luck + 0.1 + 0.01 * random.normal(size=8))})
    (comparison,) = comparisons(study.leaderboard())
    assert (comparison.optimizer, comparison.n, comparison.paired) == ("SGDW", 8, True)
    assert comparison.p == 2**-7
    assert 0.08 < comparison.low < comparison.difference < comparison.high < 0.12
    rows = study.leaderboard()
    assert rows[0].high - rows[0].low > 1.0  # the means alone would tell nothing
    assert stats.ttest_ind(*(list(row.finals.values()) for row in rows)).pvalue > 0.5


def test_runs_are_paired_by_seed_and_not_by_order():
    study = finals({"AdamW": [0.1, 0.5, 0.9], "SGDW": [0.1, 0.5, 0.9]})
    study.trials[-3:] = reversed(study.trials[-3:])
    (comparison,) = comparisons(study.leaderboard())
    assert (comparison.difference, comparison.low, comparison.high) == (0.0, 0.0, 0.0)


# The leaderboard and its words.


def test_row():
    scores = [0.9, 0.94, 0.92]
    study = finals({"AdamW": scores})
    (row,) = study.leaderboard()
    assert row.mean == pytest.approx(0.92)
    assert row.std == pytest.approx(statistics.stdev(scores))
    assert (row.low, row.high) == evidence.interval(scores)
    assert row.finals == {1000: 0.9, 1001: 0.94, 1002: 0.92}
    assert (row.n, row.trials, row.search_score) == (3, 1, 0.5)


def test_pruned_trial_is_never_the_best_unless_there_is_nothing_else():
    whole = trial(score=0.5, number=0)
    pruned = [trial(score=s, number=n, status="pruned") for n, s in ((1, 0.9), (2, 0.8))]
    study = WrittenStudy([whole, *pruned])
    assert study.scoring.best_trial("AdamW") is whole
    assert study.leaderboard()[0].pruned == 2
    assert WrittenStudy(pruned).scoring.best_trial("AdamW") is pruned[0]
    lost = trial(score=None, number=3)
    assert WrittenStudy([lost]).scoring.best_trial("AdamW") is None


def test_verdict_names_a_winner_that_the_runs_tell():
    ramp = 0.001 * np.arange(8)
    scores = {"AdamW": 0.5 + ramp, "SGDW": 0.9 + ramp, "NAdamW": 0.7 - ramp}
    text = finals({name: list(own) for name, own in scores.items()}).verdict()
    assert text.startswith("SGDW wins, ahead of NAdamW by 0.21 (")
    assert "and AdamW by 0.4 (0.4 to 0.4, p = 0.023)" in text


def test_verdict_names_all_that_cannot_be_told_from_the_leader():
    random = np.random.default_rng(5)
    noise = random.normal(scale=0.01, size=(3, 10))
    means = {"AdamW": 0.901, "NAdamW": 0.9, "SGDW": 0.5}
    study = finals({k: list(m + e) for (k, m), e in zip(means.items(), noise, strict=True)})
    text = study.verdict()
    assert "No clear winner: " in text and "It does beat SGDW by 0.4" in text
    leaders = text.split(" cannot be told apart: there is no significant difference")[0]
    assert "AdamW" in leaders and "NAdamW" in leaders and "SGDW" not in leaders


def test_verdict_says_when_there_are_too_few_runs_to_tell():
    text = finals({"AdamW": [0.5, 0.51, 0.52], "SGDW": [0.9, 0.91, 0.92]}).verdict()
    assert text.startswith("No clear winner: SGDW and AdamW cannot be told apart by 3 runs each")
    assert "takes at least 6 fresh seeds" in text
    assert "ahead of AdamW by 0.4 (0.4 to 0.4)" in text
    one = finals({"AdamW": [0.9], "SGDW": [0.8]}).verdict()
    assert "one fresh seed, which cannot tell" in one


def test_verdict_turns_with_the_direction():
    scores = {"AdamW": [0.5 + 0.01 * i for i in range(6)], "SGDW": [0.9] * 6}
    text = finals(scores, direction="min", objective="val_loss").verdict()
    assert text.startswith("AdamW wins, ahead of SGDW by 0.38 (0.36 to 0.39")


def test_lost_finals_do_not_win_and_are_not_tested():
    study = finals({"AdamW": [0.9, 0.9, None], "SGDW": [0.5, 0.5, 0.5]})
    rows = study.leaderboard()
    assert [row.optimizer for row in rows] == ["SGDW", "AdamW"]
    assert (rows[1].mean, rows[1].low, rows[1].finals_lost, rows[1].n) == (None, None, 1, 3)
    assert comparisons(rows) == []
    assert verdict(rows).startswith("SGDW wins: no other optimizer trained well on every")
    both = finals({"AdamW": [None], "SGDW": [None]}).verdict()
    assert both.startswith("No clear winner: AdamW and SGDW were not trained well")


def test_verdict_without_a_result():
    assert finals({"AdamW": [0.9, 0.8]}).verdict() == "No comparison: only AdamW has a result."
    assert WrittenStudy([trial(score=None)]).verdict() == "No winner: no trial ended well."
    assert WrittenStudy([], optimizers=["AdamW"]).verdict() == "No winner: no trial has ended."
    trials = [trial("AdamW", 0.5), trial("SGDW", 0.6)]
    assert WrittenStudy(trials, finalist_seeds=0).verdict() == (
        "No clear winner: nothing was trained on fresh seeds. "
        "SGDW has the best trial of the search."
    )
    assert WrittenStudy(trials, finalist_seeds=3).verdict() == (
        "Not finished, so no winner yet: nothing has been trained on fresh seeds. "
        "SGDW has the best trial of the search so far."
    )


@pytest.mark.parametrize("scale", [1.0, 1e-7])
def test_difference_is_nothing_where_float32_tells_no_more(scale):
    near = [scale * (0.1 + 1e-9 * number) for number in range(8)]
    equal = finals({"AdamW": near, "SGDW": [run + 1e-9 * scale for run in near]}).verdict()
    assert "by 0 (" in equal
    far = finals({"AdamW": near, "SGDW": [run + 0.02 * scale for run in near]}).verdict()
    assert f"SGDW wins, ahead of AdamW by {0.02 * scale:.2g} (" in far


# The luck of a search.


def test_best_of_n_is_what_all_subsets_give():
    costs = [0.3, 0.1, math.inf, 0.7, 0.5, 0.2]
    for chance in (0.1, 0.5, 0.9):
        for n, cost in enumerate(evidence.best_of(costs, chance), 1):
            best = [min(subset) for subset in itertools.combinations(costs, n)]
            assert np.mean([b <= cost for b in best]) >= chance - 1e-12
            better = [c for c in costs if c < cost]
            assert all(np.mean([b <= c for b in best]) < chance for c in better)


@pytest.mark.parametrize("other", [[], [0.9], [0.9, 0.91, None]])
def test_there_is_no_winner_before_the_runs_on_fresh_seeds_are_there(other):
    """A killed search, or a report on one that goes on."""
    scores = {"SGDW": [0.7, 0.8, 0.75, 0.76], "AdamW": other}
    text = finals(scores).verdict()
    assert text.startswith("Not finished, so no winner yet: of 4 runs on fresh seeds there are ")
    assert "SGDW 4" in text and f"AdamW {len(other)}" in text
    assert finals({"SGDW": scores["SGDW"], "AdamW": [None] * 4}).verdict().startswith("SGDW wins")


# Several studies.


def test_compare_says_what_is_not_finished(tmp_path):
    ramp = [0.8 + 0.01 * i for i in range(6)]
    a = finals({"AdamW": ramp}, directory=tmp_path / "a")
    b = finals({"AdamW": ramp[:2]}, directory=tmp_path / "b", finalist_seeds=6)
    b.trials.append(trial(number=1, score=0.1))
    found = tuning.compare(a, b)
    assert found.verdict.startswith("b: Not finished, so no winner yet: of 6 runs on fresh seeds")
    assert found.caveats == ["the trials per optimizer differ (a: [1], b: [2])"]


def test_compare_has_no_winner_while_a_study_has_no_trial(tmp_path):
    a = finals({"AdamW": [0.9] * 6, "SGDW": [0.5 + 0.01 * i for i in range(6)]})
    b = WrittenStudy([], tmp_path / "b", optimizers=["AdamW"])
    assert "No trial has ended" in tuning.compare(a, b).verdict


def test_compare_pairs_equal_seeds_across_studies(tmp_path):
    ramp = [0.8 + 0.01 * i for i in range(6)]
    a = finals({"AdamW": ramp}, directory=tmp_path / "a")
    b = finals({"AdamW": [score + 0.05 for score in ramp]}, directory=tmp_path / "b")
    found = tuning.compare(a, b)
    assert [row.optimizer for row in found.rows] == ["AdamW (b)", "AdamW (a)"]
    assert found.verdict.startswith("AdamW (b) wins, ahead of AdamW (a) by 0.05")
    assert found.caveats == []
    assert found.comparisons[0].paired


def test_compare_treats_other_seeds_as_independent(tmp_path):
    ramp = [0.8 + 0.01 * i for i in range(6)]
    a = finals({"AdamW": ramp}, directory=tmp_path / "a")
    b = finals({"AdamW": [score + 0.05 for score in ramp]}, directory=tmp_path / "b", seed=1)
    b.trials = [
        trial(t.optimizer, t.score, role=t.role, number=t.number, seed=t.seed + 10**6)
        for t in b.trials
    ]
    (found,) = tuning.compare(a, b).comparisons
    assert not found.paired
    assert found.p == evidence.p_value([s + 0.05 for s in ramp], ramp)
    assert (found.low, found.high) == evidence.interval([s + 0.05 for s in ramp], ramp)


def test_compare_says_how_many_seeds_those_that_share_them_need(tmp_path):
    """Signs of pairs tell less than ways to deal: four need 8 shared seeds, or 5 of their own."""
    random = np.random.default_rng(6)
    names, runs = ("AdamW", "SGDW", "NAdamW", "Adam"), 7
    studies = [
        finals({name: list(0.8 + 0.01 * random.normal(size=runs))}, directory=tmp_path / name)
        for name in names
    ]
    studies[-1] = finals({"Adam": [0.805] * runs}, directory=tmp_path / "other", seed=1)
    studies[-1].trials = [
        trial(t.optimizer, t.score, role=t.role, number=t.number, seed=t.seed + 10**6)
        for t in studies[-1].trials
    ]
    found = tuning.compare(*studies)
    assert {c.paired for c in found.comparisons} == {True, False}
    assert evidence.runs_needed(4) == 8 and evidence.runs_needed(4, paired=False) < runs
    start = " cannot be told apart by 7 runs each: to tell 4 optimizers apart takes at least 8 "
    assert start in found.verdict


def test_compare_counts_the_seeds_that_all_share(tmp_path):
    """Two more runs, both lucky, do not put first what is behind on each seed that both have."""
    ramp = [0.8 + 0.01 * i for i in range(6)]
    more = finals({"AdamW": [*ramp, 0.99, 0.99]}, directory=tmp_path / "more")
    less = finals({"AdamW": [score + 0.005 for score in ramp]}, directory=tmp_path / "less")
    assert more.leaderboard()[0].mean > less.leaderboard()[0].mean
    found = tuning.compare(more, less)
    assert [row.optimizer for row in found.rows] == ["AdamW (less)", "AdamW (more)"]
    assert found.verdict.startswith("AdamW (less) wins, ahead of AdamW (more) by 0.005")
    assert [row.n for row in found.rows] == [6, 6]
    last = found.rows[1]
    assert last.mean == pytest.approx(np.mean(ramp)) and last.std == pytest.approx(
        np.std(ramp, ddof=1)
    )
    assert (last.low, last.high) == evidence.interval(ramp)
    assert found.caveats == [comparison.FEWER_SEEDS]


def test_compare_leaves_seeds_that_nothing_shares(tmp_path):
    ramp = [0.8 + 0.01 * i for i in range(6)]
    a, b = (finals({"AdamW": own}, directory=tmp_path / str(len(own))) for own in (ramp, ramp[:4]))
    c = finals({"SGDW": ramp[:5]}, directory=tmp_path / "c", seed=1)
    c.trials = [
        trial(t.optimizer, t.score, role=t.role, number=t.number, seed=t.seed + 10**6)
        for t in c.trials
    ]
    assert sorted(row.n for row in tuning.compare(a, b, c).rows) == [4, 4, 5]


def test_compare_says_why_it_is_not_fair(tmp_path):
    a = finals({"AdamW": [0.8]}, directory=tmp_path / "a")
    b = finals({"AdamW": [0.8]}, directory=tmp_path / "b", data="4567", epochs=9)
    assert tuning.compare(a, b).caveats == [
        "the epochs differ (a: 2, b: 9)",
        "the data differ (a: 0123, b: 4567)",
    ]


def test_compare_refuses_what_does_not_compare(tmp_path):
    a = finals({"AdamW": [0.8]}, directory=tmp_path / "a")
    b = finals({"AdamW": [0.8]}, directory=tmp_path / "b", objective="val_loss", direction="min")
    with pytest.raises(ValueError, match="same objective.*a: val_accuracy .max., b: val_loss"):
        tuning.compare(a, b)
    with pytest.raises(ValueError, match="two or more"):
        tuning.compare(a)
    with pytest.raises(ValueError, match="must not repeat"):
        tuning.compare(a, a)


def test_compare_tells_folders_of_one_name_apart(tmp_path):
    a = finals({"AdamW": [0.8]}, directory=tmp_path / "a" / "run")
    b = finals({"AdamW": [0.9]}, directory=tmp_path / "b" / "run")
    assert [row.optimizer for row in tuning.compare(a, b).rows] == [
        "AdamW (b/run)",
        "AdamW (a/run)",
    ]
