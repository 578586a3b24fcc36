"""The search: the same number of trials for each optimizer, then a re-run of each best one.

The random points come from KerasTuner's stock `RandomSearch`, one per optimizer, asked and told
in turns. Finished trials are kept by the study, not by KerasTuner: a search that goes on after an
interruption asks for the same points again and tells the results that are on the disk already.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import keras_tuner
import numpy as np
from rich.console import Console

from keras_adamfamily.tuning.hypermodel import OptimizerHyperModel
from keras_adamfamily.tuning.progress import Progress
from keras_adamfamily.tuning.space import DEFAULT_OPTIMIZERS, SearchSpace
from keras_adamfamily.tuning.study import Settings, Study
from keras_adamfamily.tuning.trial import FINAL, OK, SEARCH, Training, TrialResult, one_line
from keras_adamfamily.validation import check_integer


def tune(
    build_model: Callable[..., keras.Model],
    train: tuple[Any, Any],
    validation: tuple[Any, Any],
    *,
    directory: str | os.PathLike,
    optimizers: Sequence[str] | SearchSpace = DEFAULT_OPTIMIZERS,
    max_trials: int = 24,
    epochs: int = 20,
    batch_size: int = 32,
    objective: str | keras_tuner.Objective = "val_accuracy",
    finalist_seeds: int = 3,
    seed: int = 0,
    loss: Any = None,
    metrics: Any = None,
    console: Console | None = None,
) -> Study:
    """Searches learning rate and weight decay of several optimizers, and compares them fairly.

    Each optimizer gets the same number of trials, of epochs and of searched values, and the i-th
    trial of each lies at the same place of its ranges and has the same random seed. The score of a
    trial is the objective after its last epoch, not the best of its curve. Then the best
    configuration of each optimizer is trained again on fresh seeds, and these runs make the order.

    Calling it again with the same directory goes on where the search ended, also after it was
    killed; a larger `max_trials` adds trials. The random seeds of Python, NumPy and the backend
    are set for each trial.

    Args:
        build_model: A function without arguments that returns a new model; see
            `OptimizerHyperModel`.
        train: `(x, y)`, two arrays of shapes `(examples, ...)`.
        validation: `(x, y)`, likewise. The scores are measured on it and it picks the winner: keep
            a test set apart to measure the winner.
        directory: Folder of the study, a new or empty one, or that of the same study.
        optimizers: Names, or a `SearchSpace`.
        max_trials: Trials in all; each optimizer gets an equal share, rounded down.
        epochs: Epochs of each trial.
        batch_size: Examples per batch.
        objective: What to optimize, such as `"val_accuracy"` or `"val_loss"`, whose direction is
            known; otherwise `"val_f1:max"`, `"val_cost:min"` or a `keras_tuner.Objective`.
        finalist_seeds: Number of fresh seeds for the best configurations; 0 leaves that out.
        seed: A non-negative integer. 0 is a seed like any other.
        loss: As in `model.compile`; needed if `build_model` does not compile its model.
        metrics: As in `model.compile`; replaces the model's metrics if given.
        console: Where the progress goes; by default the terminal.
            `rich.console.Console(quiet=True)` shows none.

    Returns:
        The `Study`.

    Raises:
        ValueError: If an argument is out of range, the folder holds something else, or the
            objective is not among the model's metrics.
        TypeError: If `build_model` is not a function.
        RuntimeError: If the model cannot be built or trained on the first batch.
        OSError: If the folder cannot be written.

    Example:

    >>> from keras_adamfamily import tuning
    >>> task = tuning.TASKS["digits"]
    >>> study = tuning.tune(task.build_model, *task.load_data(), directory="runs/digits")
    ... # doctest: +SKIP
    >>> study.best_optimizer()  # doctest: +SKIP
    """
    space = optimizers if isinstance(optimizers, SearchSpace) else SearchSpace(optimizers)
    _check_fair(space)
    share = check_integer("max_trials", max_trials, len(space.optimizers)) // len(space.optimizers)
    training = Training(
        train=_as_arrays("train", train),
        validation=_as_arrays("validation", validation),
        epochs=check_integer("epochs", epochs, 1),
        batch_size=check_integer("batch_size", batch_size, 1),
        objective=_as_objective(objective),
    )
    check_integer("finalist_seeds", finalist_seeds, 0)
    check_integer("seed", seed, 0)

    hypermodel = OptimizerHyperModel(
        build_model,
        space,
        dataset_size=len(training.train[0]),
        epochs=epochs,
        batch_size=batch_size,
        loss=loss,
        metrics=metrics,
    )
    settings = Settings(
        space=space.get_config(),
        objective=training.objective.name,
        direction=training.objective.direction,
        trials_per_optimizer=share,
        epochs=epochs,
        batch_size=batch_size,
        dataset_size=len(training.train[0]),
        finalist_seeds=finalist_seeds,
        seed=seed,
        build_model=_name_of(build_model),
        parameters=_rehearse(hypermodel, training),
        data=_fingerprint(*training.train, *training.validation),
        backend=keras.config.backend(),
    )
    study = Study.open(directory, settings)
    search = _Search(study, hypermodel, training)
    with Progress(study, console or Console(), max_trials) as progress:
        for result, is_new in search.trials():
            progress.advance(result, is_new)
        for result, is_new in search.finals():
            progress.advance(result, is_new)
    study.write()
    return study


class _Search:
    """Runs the trials that a study lacks, in an order that depends on the settings alone."""

    def __init__(self, study: Study, hypermodel: OptimizerHyperModel, training: Training):
        self.study = study
        self.hypermodel = hypermodel
        self.training = training

    def trials(self) -> Iterator[tuple[TrialResult, bool]]:
        """Yields each trial of the search, and whether it was run now; optimizers take turns."""
        tuners = {name: self._tuner(name) for name in self.study.space.optimizers}
        for number in range(self.study.settings.trials_per_optimizer):
            for name, tuner in tuners.items():
                asked = tuner.oracle.create_trial(tuner.tuner_id)
                if asked.status == "STOPPED":  # fewer different configurations than trials
                    continue
                result, is_new = self._result(SEARCH, name, number, asked.hyperparameters.values)
                if result.status == OK:
                    metrics = {self.study.settings.objective: result.score}
                    tuner.oracle.update_trial(asked.trial_id, metrics, step=result.epoch)
                asked.status = "COMPLETED" if result.status == OK else "FAILED"
                asked.message = result.cause
                tuner.oracle.end_trial(asked)
                yield result, is_new

    def finals(self) -> Iterator[tuple[TrialResult, bool]]:
        """Yields the runs of each optimizer's best configuration on fresh seeds."""
        for number in range(self.study.settings.finalist_seeds):
            for name in self.study.space.optimizers:
                best = self.study.scoring.best_trial(name)
                if best is not None:
                    yield self._result(FINAL, name, number, best.hyperparameters)

    def _tuner(self, name: str) -> keras_tuner.Tuner:
        count = self.study.settings.trials_per_optimizer
        part = OptimizerHyperModel(
            self.hypermodel.build_model,
            self.study.space.only(name),
            **self.hypermodel.length,
            **self.hypermodel.compile_arguments,
        )
        tuner = keras_tuner.RandomSearch(
            part,
            objective=self.training.objective,
            max_trials=count,
            seed=_derived_seed(self.study.settings.seed),
            max_consecutive_failed_trials=count + 1,
            directory=self.study.directory / "trials",
            project_name=name,
            overwrite=True,
        )
        tuner.oracle.verbose = 0
        return tuner

    def _result(
        self, role: str, optimizer: str, number: int, values: dict[str, Any]
    ) -> tuple[TrialResult, bool]:
        """The result that the study has, or a new one."""
        hyperparameters = {key: value for key, value in values.items() if key != "optimizer"}
        known = self.study.find(role, optimizer, number)
        if known is None:
            known = self.training.run(
                self.hypermodel,
                optimizer=optimizer,
                role=role,
                number=number,
                seed=_derived_seed(self.study.settings.seed, role == FINAL, number),
                hyperparameters=hyperparameters,
            )
            self.study.add(known)
            return known, True
        if known.hyperparameters != hyperparameters:
            raise ValueError(
                f"trial {number} of {optimizer} in {str(self.study.directory)!r} has other "
                "hyperparameters than this search: its build_model or the version of KerasTuner "
                "has changed. Choose another folder"
            )
        return known, False


def _derived_seed(*parts: int) -> int:
    """A positive 32-bit seed, unrelated for different `parts`; KerasTuner takes 0 for no seed."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0]) or 1


def _rehearse(hypermodel: OptimizerHyperModel, training: Training) -> int:
    """Trains on one batch, so that what is broken stops the search before it starts.

    Returns:
        The number of parameters of the model.
    """
    first = slice(training.batch_size)
    batch = dataclasses.replace(
        training,
        train=tuple(array[first] for array in training.train),
        validation=tuple(array[first] for array in training.validation),
        epochs=1,
    )
    keras.backend.clear_session()
    try:
        hypermodel.build(keras_tuner.HyperParameters())
        model = hypermodel.build(keras_tuner.HyperParameters())  # twice: it must be a new one
        batch.fit(model)
    except Exception as error:
        raise RuntimeError(f"`build_model` gave no model that trains: {one_line(error)}") from error
    logs = model.history.history
    if training.objective.name not in logs:
        raise ValueError(
            f"`objective` must be one of {', '.join(logs)}. "
            f"Received: objective={training.objective.name!r}"
        )
    return model.count_params()


def _check_fair(space: SearchSpace) -> None:
    counts = {name: len(space.ranges[name]) for name in space.optimizers}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(
            "`optimizers` must have the same number of searched values each, or the one with more "
            f"is at an advantage. Received: {listed}. Change `ranges` or `fix` of the SearchSpace"
        )


def _as_objective(objective: Any) -> keras_tuner.Objective:
    """`"val_accuracy"`, `"val_f1:max"` or an `Objective`, as an `Objective`."""
    if isinstance(objective, str) and objective.endswith((":max", ":min")):
        return keras_tuner.Objective(*objective.rsplit(":", 1))
    if not isinstance(objective, (str, keras_tuner.Objective)):
        raise TypeError(
            "`objective` must be a string such as 'val_accuracy' or a keras_tuner.Objective. "
            f"Received: objective={objective!r}"
        )
    try:
        return keras_tuner.oracles.RandomSearchOracle(objective=objective).objective
    except ValueError as error:
        raise ValueError(
            "`objective` must say which way is better, unless it is a metric that Keras knows: "
            f"'{objective}:max' or '{objective}:min'. Received: objective={objective!r}"
        ) from error


def _as_arrays(name: str, value: Any) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays with the same number of examples, or an error that names the argument."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(
            f"`{name}` must be a pair (x, y) of arrays. Received: {type(value).__name__}"
            + (f" of length {len(value)}" if isinstance(value, (tuple, list)) else "")
        )
    try:
        x, y = (np.asarray(part) for part in value)
    except ValueError as error:
        raise ValueError(f"`{name}` must be a pair (x, y) of arrays: {error}") from error
    if x.dtype == object or y.dtype == object:
        raise ValueError(
            f"`{name}` must be a pair (x, y) of arrays of numbers. "
            f"Received the dtypes {x.dtype} and {y.dtype}"
        )
    if not x.ndim or not y.ndim or len(x) != len(y) or not len(x):
        raise ValueError(
            f"`{name}` must be (x, y) with the same number of examples, at least one. "
            f"Received the shapes {x.shape} and {y.shape}"
        )
    return x, y


def _fingerprint(*arrays: np.ndarray) -> str:
    """A digest of the arrays' shapes, types and contents."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return digest.hexdigest()[:16]


def _name_of(function: Any) -> str:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '?')}.{name}"
