"""Several studies of the same objective, side by side, and whether that is fair."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from keras_adamfamily.tuning import leaderboard
from keras_adamfamily.tuning.leaderboard import Comparison, LeaderboardRow, Scoring
from keras_adamfamily.tuning.study import Study

#: Settings that may differ without favoring a study.
HARMLESS = {"space", "seed", "build_model", "backend", "finalist_seeds", "trials_per_optimizer"}
FEWER_SEEDS = "some have more fresh seeds than others: only the runs on those that they share count"


@dataclasses.dataclass(frozen=True)
class StudyComparison:
    """What `compare` finds.

    Attributes:
        objective: What all studies optimized.
        rows: The leaderboards in one; an optimizer is called `"AdamW (folder)"`.
        comparisons: The leader against each other row.
        caveats: Why the comparison is not fair, in plain words; empty if it is.
        verdict: In plain words.
    """

    objective: str
    rows: list[LeaderboardRow]
    comparisons: list[Comparison]
    caveats: list[str]
    verdict: str


def compare(*studies: Study) -> StudyComparison:
    """Compares the optimizers of several studies by their runs on fresh seeds.

    Runs are compared in pairs where the studies share their seeds, which they do if they were
    started with the same `seed`; otherwise as independent samples. If some have more runs on fresh
    seeds than others, those on the seeds that all share are compared, and a caveat says so.

    Args:
        *studies: Two or more, of the same objective.

    Returns:
        The `StudyComparison`.

    Raises:
        ValueError: If there are fewer than two, or they have different objectives.

    Example:

    >>> from keras_adamfamily import tuning
    >>> tuning.compare(tuning.Study("runs/a"), tuning.Study("runs/b")).verdict  # doctest: +SKIP
    """
    if len(studies) < 2:
        raise ValueError(f"`studies` must be two or more. Received: {len(studies)}")
    names = _names(studies)
    wanted = {name: _objective(study) for name, study in zip(names, studies, strict=True)}
    if len(set(wanted.values())) > 1:
        listed = ", ".join(f"{name}: {objective}" for name, objective in wanted.items())
        raise ValueError(f"`studies` must have the same objective. Received: {listed}")
    rows = [
        dataclasses.replace(row, optimizer=f"{row.optimizer} ({name})")
        for name, study in zip(names, studies, strict=True)
        for row in study.leaderboard()
    ]
    missing = [
        f"{name}: {text}"
        for name, study in zip(names, studies, strict=True)
        if (text := study.unfinished() or ("" if study.trials else "No trial has ended."))
    ]
    alike = None if missing else _on_shared_seeds(rows)
    rows = Scoring([], studies[0].settings.direction).ranked(alike or rows)
    return StudyComparison(
        objective=studies[0].settings.objective,
        rows=rows,
        comparisons=leaderboard.comparisons(rows),
        caveats=_caveats(names, studies) + [FEWER_SEEDS] * bool(alike),
        verdict=" ".join(missing) or leaderboard.verdict(rows),
    )


def _on_shared_seeds(rows: Sequence[LeaderboardRow]) -> list[LeaderboardRow] | None:
    """The rows with the runs on seeds that they share alone; `None` if that is all of them.

    A mean over other seeds could put first what is behind on each seed that both have.
    """
    whole = [row for row in rows if row.mean is not None]
    kept = {}
    for row in whole:
        seeds = set(row.finals)
        for other in whole:
            seeds = seeds & set(other.finals) or seeds
        kept[row.optimizer] = {seed: x for seed, x in row.finals.items() if seed in seeds}
    if all(len(kept[row.optimizer]) == row.n for row in whole):
        return None
    return [
        dataclasses.replace(row, **leaderboard.on_fresh_seeds(kept.get(row.optimizer, row.finals)))
        for row in rows
    ]


def _names(studies: Sequence[Study]) -> list[str]:
    """The folders, as short as tells them apart."""
    paths = [study.directory.resolve() for study in studies]
    if len(set(paths)) < len(paths):
        raise ValueError("`studies` must not repeat a folder")
    short = [path.name for path in paths]
    if len(set(short)) == len(short):
        return short
    root = os.path.commonpath(paths)
    return [path.relative_to(root).as_posix() for path in paths]


def _objective(study: Study) -> str:
    return f"{study.settings.objective} ({study.settings.direction})"


def _caveats(names: Sequence[str], studies: Sequence[Study]) -> list[str]:
    settings = [dataclasses.asdict(study.settings) for study in studies]
    facts = [
        {key: value for key, value in own.items() if key not in HARMLESS}
        | {"searched values per optimizer": sorted({len(r) for r in study.space.ranges.values()})}
        | {"trials per optimizer": sorted({row.trials for row in study.leaderboard()})}
        for own, study in zip(settings, studies, strict=True)
    ]
    caveats = []
    for key in facts[0]:
        values = [own.get(key) for own in facts]
        if any(value != values[0] for value in values):
            listed = ", ".join(f"{n}: {v}" for n, v in zip(names, values, strict=True))
            caveats.append(f"the {key.replace('_', ' ')} differ ({listed})")
    return caveats
