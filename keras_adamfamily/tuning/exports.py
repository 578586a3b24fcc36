"""A study for other programs: spreadsheets, scripts, TensorBoard, Optuna's dashboard.

What is exported has a folder made for it; a path of a file that the study itself is read from is a
`ValueError`.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from keras_adamfamily.tuning import leaderboard
from keras_adamfamily.tuning.leaderboard import LeaderboardRow
from keras_adamfamily.tuning.storage import DIRECTIONS, by_epoch, quiet, sqlite_url
from keras_adamfamily.tuning.study import Study, cell, columns_of
from keras_adamfamily.tuning.trial import OK, PRUNED, SEARCH, TrialResult


def to_csv(study: Study, path: Path) -> None:
    """One line per trial; the curves are left out."""
    study.make_way(path)
    names = list(dict.fromkeys(name for t in study.trials for name in t.short_hyperparameters))
    left_out = ("hyperparameters", "curves", "facts")
    fields = [f.name for f in dataclasses.fields(TrialResult) if f.name not in left_out]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(map(cell, [*fields, *columns_of(names, fields)]))
        for trial in study.trials:
            values = trial.short_hyperparameters
            row = [getattr(trial, name) for name in fields] + [values.get(name) for name in names]
            writer.writerow(map(cell, row))


def to_json(study: Study, path: Path) -> None:
    """All there is: settings, environments, what follows from the trials, and the trials."""
    study.make_way(path)
    content = {
        "settings": dataclasses.asdict(study.settings),
        "environments": study.environments,
        **result(study),
        "trials": [dataclasses.asdict(trial) for trial in study.trials],
    }
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", "utf-8")


def result(study: Study) -> dict[str, Any]:
    """The verdict, the leaderboard and the comparisons, as JSON has them."""
    rows = study.leaderboard()
    return {
        "objective": study.settings.objective,
        "direction": study.settings.direction,
        "verdict": study.verdict(),
        **tables(rows),
    }


def tables(rows: Iterable[LeaderboardRow]) -> dict[str, Any]:
    rows = list(rows)
    return {
        "leaderboard": [dataclasses.asdict(row) for row in rows],
        "comparisons": [
            dataclasses.asdict(comparison) | {"is_told_apart": comparison.is_told_apart}
            for comparison in leaderboard.comparisons(rows)
        ],
    }


def to_tensorboard(study: Study, path: Path) -> None:
    """Event files, a run per trial: curves for the SCALARS tab, hyperparameters for HPARAMS.

    Raises:
        ModuleNotFoundError: If the package `tensorboard` is missing; TensorFlow is not needed.
        FileExistsError: If the folder is there already, since TensorBoard would show both.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    study.make_way(path)
    _refuse_existing(path)
    ends = {OK: api_pb2.STATUS_SUCCESS, PRUNED: api_pb2.STATUS_SUCCESS}
    for trial in study.trials:
        run = path / f"{trial.optimizer}-{trial.role}-{trial.number}"
        ended = trial.finished or 0.0
        started = ended - trial.seconds if ended else 0.0
        values = {
            name: value if isinstance(value, bool | int | float) else str(value)
            for name, value in trial.short_hyperparameters.items()
        }
        values |= {"optimizer": trial.optimizer, "role": trial.role, "status": trial.status}
        end = plugin_data_pb2.HParamsPluginData(
            session_end_info=plugin_data_pb2.SessionEndInfo(
                status=ends.get(trial.status, api_pb2.STATUS_FAILURE), end_time_secs=ended
            )
        )
        begin = summary_v2.hparams_pb(values, trial_id=run.name, start_time_secs=started)
        closing = Summary.Value(
            tag=metadata.SESSION_END_INFO_TAG,
            metadata=metadata.create_summary_metadata(end),
            tensor=metadata.NULL_TENSOR,
        )
        writer = EventFileWriter(str(run))
        writer.add_event(Event(wall_time=started, summary=begin))
        for name, curve in trial.curves.items():
            for epoch, value in enumerate(curve, 1):
                if value is not None:
                    point = Summary(value=[Summary.Value(tag=name, simple_value=value)])
                    writer.add_event(Event(wall_time=ended, step=epoch, summary=point))
        writer.add_event(Event(wall_time=ended, summary=Summary(value=[closing])))
        writer.close()


def to_optuna(study: Study, path: Path) -> None:
    """An SQLite file with one Optuna study per optimizer, for `optuna-dashboard` and others.

    Raises:
        FileExistsError: If the file is there already.
        OSError: If it cannot be made.
    """
    study.make_way(path)
    _refuse_existing(path)
    path.touch()  # SQLite does not say why it cannot
    storage = optuna.storages.RDBStorage(sqlite_url(path))
    try:
        for optimizer in study.space.optimizers:
            as_optuna(study, optimizer, storage=storage)
    finally:
        storage.engine.dispose()


EXPORTS: dict[str, tuple[str, Callable[[Study, Path], None]]] = {
    "csv": ("trials.csv", to_csv),
    "json": ("study-and-trials.json", to_json),
    "tensorboard": ("tensorboard", to_tensorboard),
    "optuna": ("optuna.db", to_optuna),
}


def as_optuna(
    study: Study,
    optimizer: str,
    *,
    value: Callable[[TrialResult], float | None] | None = None,
    storage: optuna.storages.BaseStorage | None = None,
) -> optuna.Study:
    """The search of one optimizer as an Optuna study, in memory unless a `storage` is given.

    Args:
        study: Of this package.
        optimizer: One of its optimizers.
        value: What Optuna shall take for the score and minimize; by default the score itself, and
            the trials keep their status and curves.
        storage: Where to.
    """
    direction = DIRECTIONS[study.settings.direction if value is None else "min"]
    with quiet():
        rebuilt = optuna.create_study(storage=storage, study_name=optimizer, direction=direction)
        trials = study.scoring.of(SEARCH, optimizer)
        spaces = _distributions(study, optimizer, trials)
        rebuilt.add_trials([_frozen(study, trial, spaces, value) for trial in trials])
    return rebuilt


def _frozen(
    study: Study,
    trial: TrialResult,
    spaces: dict[str, optuna.distributions.BaseDistribution],
    value: Callable[[TrialResult], float | None] | None,
) -> optuna.trial.FrozenTrial:
    states, values = optuna.trial.TrialState, trial.short_hyperparameters
    params = {name: values[name] for name in spaces if name in values}
    own = {name: spaces[name] for name in params}
    if value is not None:
        return optuna.trial.create_trial(params=params, distributions=own, value=value(trial))
    state = {OK: states.COMPLETE, PRUNED: states.PRUNED}.get(trial.status, states.FAIL)
    curve = trial.curves.get(study.settings.objective, [])
    attributes = {"role": trial.role, "status": trial.status, "seed": trial.seed}
    attributes |= {"cause": trial.cause, "seconds": trial.seconds, "strategy": trial.strategy}
    frozen = optuna.trial.create_trial(
        state=state,
        value=trial.score if state == states.COMPLETE else None,
        params=params,
        distributions=own,
        user_attrs=attributes,
        intermediate_values=by_epoch(curve),
    )
    if trial.finished is not None:  # else Optuna's own: now
        frozen.datetime_complete = datetime.datetime.fromtimestamp(trial.finished)
        lasted = datetime.timedelta(seconds=trial.seconds)
        frozen.datetime_start = frozen.datetime_complete - lasted
    return frozen


def _distributions(
    study: Study, optimizer: str, trials: list[TrialResult]
) -> dict[str, optuna.distributions.BaseDistribution]:
    """The searched ranges, widened to what was tried; for what is not of the space, what was tried.

    Values that are always the same are no hyperparameters.
    """
    tried: dict[str, list[Any]] = {}
    for trial in trials:
        for name, value in trial.short_hyperparameters.items():
            tried.setdefault(name, []).append(value)
    found = {}
    for name, values in tried.items():
        if len(set(values)) < 2:
            continue
        if any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
            choices = list(dict.fromkeys(values))
            found[name] = CategoricalDistribution(choices)
            continue
        searched = study.space.ranges[optimizer].get(name, ())
        low, high = min(*values, *searched), max(*values, *searched)
        is_whole = all(isinstance(v, int) for v in (*values, *searched))
        kind = IntDistribution if is_whole else FloatDistribution
        found[name] = kind(low, high, log=bool(searched))
    return found


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise FileExistsError(f"{str(path)!r} is there already: remove it, or choose another place")
