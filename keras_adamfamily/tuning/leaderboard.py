"""Which optimizer came out best, by how much, and whether the runs tell at all."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from keras_adamfamily.tuning import evidence
from keras_adamfamily.tuning.evidence import SIGNIFICANCE
from keras_adamfamily.tuning.trial import (
    DIVERGED,
    FAILED,
    FINAL,
    OK,
    PRUNED,
    SEARCH,
    TrialResult,
)


@dataclasses.dataclass(frozen=True)
class LeaderboardRow:
    """One optimizer, with its best configuration.

    Attributes:
        rank: 1 is the best.
        optimizer: Its name.
        mean: Mean objective of the best configuration on fresh seeds; `None` if there is none or
            if one of these runs diverged or failed.
        std: Standard deviation over the fresh seeds, with n - 1; `None` for fewer than two.
        low: Lower end of the 95 % interval of `mean`; `None` for fewer than two.
        high: Its upper end.
        n: Number of fresh seeds.
        search_score: Objective of the best trial of the search. It was picked for being the
            best, so it flatters; `mean` is not picked.
        hyperparameters: Of the best trial, `{"learning_rate": 0.001, ...}`.
        trials: Finished trials of the search.
        pruned: How many of them were stopped early.
        diverged: How many of them diverged.
        failed: How many of them raised an exception.
        finals_lost: How many of the runs on fresh seeds diverged or failed.
        seconds: Median time of a trial.
        finals: The objective by fresh seed, `None` for a run that was lost.
    """

    rank: int
    optimizer: str
    mean: float | None
    std: float | None
    low: float | None
    high: float | None
    n: int
    search_score: float | None
    hyperparameters: dict[str, Any]
    trials: int
    pruned: int
    diverged: int
    failed: int
    finals_lost: int
    seconds: float | None
    finals: dict[int, float | None]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The leader against one other optimizer.

    Attributes:
        optimizer: The other one.
        difference: The leader's mean minus the other's, over the same seeds if `paired`.
        low: Lower end of the 95 % interval of the difference; `None` for fewer than two runs.
        high: Its upper end.
        p: p-value of the permutation test, corrected by Holm's method for the number of pairs of
            optimizers; `None` for fewer than two runs.
        n: Number of runs of each that were compared.
        paired: Whether run by run, with the same seed; if not, the seeds had nothing in common.
    """

    optimizer: str
    difference: float
    low: float | None
    high: float | None
    p: float | None
    n: int
    paired: bool

    @property
    def is_told_apart(self) -> bool:
        return self.p is not None and self.p <= SIGNIFICANCE


class Scoring:
    """Orders the trials of a study.

    Args:
        trials: All finished trials.
        direction: `"max"` or `"min"`.
    """

    def __init__(self, trials: Sequence[TrialResult], direction: str):
        self.trials = trials
        self.sign = -1.0 if direction == "max" else 1.0

    def cost(self, score: float | None) -> float:
        """What to sort by: the smaller the better, nothing is worse than no score."""
        return math.inf if score is None else self.sign * score

    def of(self, role: str, optimizer: str) -> list[TrialResult]:
        """The trials of an optimizer; `"final"` means those of its current best configuration."""
        trials = [t for t in self.trials if t.role == role and t.optimizer == optimizer]
        if role == FINAL:
            best = self.best_trial(optimizer)
            trials = [t for t in trials if best and t.hyperparameters == best.hyperparameters]
        return trials

    def best_trial(self, optimizer: str) -> TrialResult | None:
        """The best trial of the search, the first of equals; `None` if none ended well.

        A pruned trial has the score of the epoch in which it was stopped, which does not compare
        with that of a whole training: it is the best only if no other has a score.
        """
        trials = [t for t in self.of(SEARCH, optimizer) if t.score is not None]
        return min(
            trials, key=lambda t: (t.status == PRUNED, self.cost(t.score), t.number), default=None
        )

    def best_run(self, optimizer: str, role: str) -> TrialResult | None:
        """The best of the trials that ended well, the first of equals; `None` if there is none."""
        trials = [t for t in self.of(role, optimizer) if t.status == OK]
        return min(trials, key=lambda t: (self.cost(t.score), t.number), default=None)

    def leaderboard(self, optimizers: Sequence[str]) -> list[LeaderboardRow]:
        """One row per optimizer, ordered by `mean` where there is one, then `search_score`."""
        return self.ranked([self._row(optimizer) for optimizer in optimizers])

    def ranked(self, rows: Sequence[LeaderboardRow]) -> list[LeaderboardRow]:
        rows = sorted(rows, key=lambda row: (self.cost(row.mean), self.cost(row.search_score)))
        return [dataclasses.replace(row, rank=rank) for rank, row in enumerate(rows, 1)]

    def _row(self, optimizer: str) -> LeaderboardRow:
        trials, finals = self.of(SEARCH, optimizer), self.of(FINAL, optimizer)
        best = self.best_trial(optimizer)
        return LeaderboardRow(
            rank=0,
            optimizer=optimizer,
            search_score=best.score if best else None,
            hyperparameters=best.short_hyperparameters if best else {},
            trials=len(trials),
            pruned=sum(trial.status == PRUNED for trial in trials),
            diverged=sum(trial.status == DIVERGED for trial in trials),
            failed=sum(trial.status == FAILED for trial in trials),
            seconds=statistics.median(t.seconds for t in trials) if trials else None,
            **on_fresh_seeds({t.seed: t.score if t.status == OK else None for t in finals}),
        )


def on_fresh_seeds(finals: Mapping[int, float | None]) -> dict[str, Any]:
    """What a row says of these runs; it has no mean if one of them was lost."""
    lost = sum(score is None for score in finals.values())
    scores = [] if lost else list(finals.values())
    low, high = (scores and evidence.interval(scores)) or (None, None)
    return {
        "mean": statistics.fmean(scores) if scores else None,
        "std": statistics.stdev(scores) if len(scores) > 1 else None,
        "low": low,
        "high": high,
        "n": len(finals),
        "finals_lost": lost,
        "finals": dict(finals),
    }


def comparisons(rows: Sequence[LeaderboardRow]) -> list[Comparison]:
    """The first row against each other one that has a mean.

    The leader is known only after the runs, so the p-values are corrected for all pairs of
    optimizers, not only for those with the leader.
    """
    rows = [row for row in rows if row.mean is not None]
    pairs = itertools.combinations(range(len(rows)), 2)
    found = {(i, j): _compared(rows[i], rows[j]) for i, j in pairs}
    tested = [pair for pair, comparison in found.items() if comparison.p is not None]
    adjusted = evidence.holm([found[pair].p for pair in tested])
    for pair, p in zip(tested, adjusted, strict=True):
        found[pair] = dataclasses.replace(found[pair], p=p)
    return [comparison for (leader, _), comparison in found.items() if leader == 0]


def _compared(a: LeaderboardRow, b: LeaderboardRow) -> Comparison:
    """Two rows, run by run where they share seeds; the p-value is not yet corrected."""
    shared = [seed for seed in a.finals if seed in b.finals]
    if shared:
        samples = ([a.finals[seed] - b.finals[seed] for seed in shared],)
        difference = statistics.fmean(samples[0])
    else:
        samples = (list(a.finals.values()), list(b.finals.values()))
        difference = a.mean - b.mean
    if abs(difference) < 1e-7 * max(abs(a.mean), abs(b.mean)):  # float32 tells no more
        difference = 0.0
    n = min(map(len, samples))
    low, high = evidence.interval(*samples) or (None, None)
    return Comparison(
        optimizer=b.optimizer,
        difference=difference,
        low=low,
        high=high,
        p=evidence.p_value(*samples) if n > 1 else None,
        n=n,
        paired=bool(shared),
    )


def unfinished(rows: Sequence[LeaderboardRow], runs: int) -> str | None:
    """In plain words what is missing, if not all `runs` on fresh seeds have been made."""
    rows = [row for row in rows if row.search_score is not None]
    if all(row.n >= runs for row in rows):
        return None
    if not any(row.n for row in rows):
        return (
            "Not finished, so no winner yet: nothing has been trained on fresh seeds. "
            f"{rows[0].optimizer} has the best trial of the search so far."
        )
    made = ", ".join(f"{row.optimizer} {row.n}" for row in rows)
    return f"Not finished, so no winner yet: of {runs} runs on fresh seeds there are {made}."


def verdict(rows: Sequence[LeaderboardRow]) -> str:
    """In plain words: which optimizer won, or that the runs do not tell."""
    first, *others = rows
    if first.search_score is None:
        happened = "ended well" if any(row.trials for row in rows) else "has ended"
        return f"No winner: no trial {happened}."
    others = [row for row in others if row.search_score is not None]
    if not others:
        return f"No comparison: only {first.optimizer} has a result."
    if not any(row.n for row in rows):
        return (
            "No clear winner: nothing was trained on fresh seeds. "
            f"{first.optimizer} has the best trial of the search."
        )
    if first.mean is None:
        names = _listed([first.optimizer, others[0].optimizer])
        return f"No clear winner: {names} were not trained well on fresh seeds."
    compared = comparisons(rows)
    if not compared:
        return f"{first.optimizer} wins: no other optimizer trained well on every fresh seed."
    if all(comparison.is_told_apart for comparison in compared):
        return f"{first.optimizer} wins, ahead of {_listed(map(_described, compared))}."
    return _undecided(first.optimizer, compared)


def _undecided(leader: str, compared: Sequence[Comparison]) -> str:
    """Why the runs do not tell the leader from all others, and from which they do."""
    unclear = [comparison for comparison in compared if not comparison.is_told_apart]
    behind = [comparison for comparison in compared if comparison.is_told_apart]
    names = _listed([leader, *(comparison.optimizer for comparison in unclear)])
    start = f"No clear winner: {names} cannot be told apart"
    counts = [comparison.n for comparison in unclear]
    needed = [evidence.runs_needed(len(compared) + 1, comparison.paired) for comparison in unclear]
    short = [n < least for n, least in zip(counts, needed, strict=True)]
    few, many = min(counts), max(counts)
    if few == 1:
        text = f"{start}: they were trained on one fresh seed, which cannot tell."
    elif any(short):
        runs = f"{few} runs" if few == many else f"{few} to {many} runs"
        text = (
            f"{start} by {runs} each{', whatever these gave' if all(short) else ''}: to tell "
            f"{len(compared) + 1} optimizers apart takes at least {max(needed)} fresh seeds. "
            f"{leader} has the best mean, ahead of {_described(unclear[0], with_p=False)}."
        )
    else:
        text = (
            f"{start}: there is no significant difference on fresh seeds. {leader} has "
            f"the best mean, ahead of {_listed(map(_described, unclear))}."
        )
    if behind:
        text += f" It does beat {_listed(map(_described, behind))}."
    return text


def _described(comparison: Comparison, with_p: bool = True) -> str:
    """ "SGDW by 0.012 (0.008 to 0.016, p = 0.0078)"."""
    sign = -1.0 if comparison.difference < 0.0 else 1.0
    low, high = sorted((sign * comparison.low, sign * comparison.high))
    figures = f"{low:.2g} to {high:.2g}"
    if with_p:
        figures += f", p = {comparison.p:.2g}"
    return f"{comparison.optimizer} by {abs(comparison.difference):.2g} ({figures})"


def _listed(names: Any) -> str:
    """ "a", "a and b", "a, b and c"."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
