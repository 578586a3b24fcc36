"""The search: the same number of trials for each optimizer, then a re-run of each best one."""

from __future__ import annotations

import collections
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import keras_tuner
import numpy as np
import optuna
from optuna.trial import FrozenTrial
from rich.console import Console

from keras_adamfamily.tuning.data import Data
from keras_adamfamily.tuning.hypermodel import OptimizerHyperModel
from keras_adamfamily.tuning.oracle import Halving, OptunaOracle
from keras_adamfamily.tuning.progress import Progress
from keras_adamfamily.tuning.space import DEFAULT_OPTIMIZERS, SearchSpace
from keras_adamfamily.tuning.storage import STATES, running
from keras_adamfamily.tuning.study import Settings, Study, finals_of
from keras_adamfamily.tuning.trial import FINAL, Asked, Training, TrialResult, one_line
from keras_adamfamily.tuning.tuner import OptimizerTuner
from keras_adamfamily.validation import POSITIVE, check_float, check_integer

PATIENCE = 1.0  # seconds between two looks at what other processes do


def tune(
    build_model: Callable[..., keras.Model] | keras.Model,
    train: Any,
    validation: Any,
    *,
    directory: str | os.PathLike,
    optimizers: Sequence[str] | SearchSpace = DEFAULT_OPTIMIZERS,
    max_trials: int = 24,
    epochs: int = 20,
    batch_size: int | None = None,
    objective: str | keras_tuner.Objective = "val_accuracy",
    finalist_seeds: int = 8,
    seed: int = 0,
    loss: Any = None,
    metrics: Any = None,
    sampler: str | Callable[[int], optuna.samplers.BaseSampler] = "tpe",
    pruner: str | optuna.pruners.BasePruner | None = None,
    strategy: str = "auto",
    lanes: int = 128,
    max_minutes: float | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    class_weight: Mapping[int, float] | None = None,
    evaluate_average: bool = False,
    storage: str | None = None,
    console: Console | None = None,
) -> Study:
    """Searches learning rate and weight decay of several optimizers, and compares them fairly.

    Each optimizer gets the same number of trials, of epochs and of searched values, and all trials
    have the same random seed. The score of a trial is the objective after its last epoch, not the
    best of its curve. Then the best configuration of each optimizer is trained again on fresh
    seeds, and these runs make the order.

    Calling it again with the same directory goes on where the search ended, also after it was
    killed; a larger `max_trials` adds trials. Several processes may be given the same directory, or
    on several machines the same `storage`, and then share the work. The list of trials depends on
    the arguments alone, not on interruptions. The random seeds of Python, NumPy and the backend
    are set for each trial.

    Args:
        build_model: A function without arguments that returns a new model, or KerasTuner's
            `build_model(hp)`, or a compiled model, of which each trial gets a copy with new initial
            weights; see `OptimizerHyperModel`.
        train: Whatever `fit` takes: `(x, y)`, arrays of shapes `(examples, ...)`, or
            `(x, y, sample_weight)`, a `tf.data.Dataset`, a `keras.utils.PyDataset` or a PyTorch
            `DataLoader`.
        validation: Likewise. The scores are measured on it and it picks the winner: keep a test set
            apart to measure the winner.
        directory: Folder of the study, a new or empty one, or that of the same study.
        optimizers: Names, or a `SearchSpace`.
        max_trials: Trials in all; each optimizer gets an equal share, rounded down.
        epochs: Epochs of each trial.
        batch_size: Examples per batch of arrays, where the space does not search it, 32 by default.
        objective: What to optimize, such as `"val_accuracy"` or `"val_loss"`, whose direction is
            known; otherwise `"val_f1:max"`, `"val_cost:min"` or a `keras_tuner.Objective`.
        finalist_seeds: Number of fresh seeds for the best configurations, 8 by default; fewer than
            6 cannot tell two optimizers apart, 0 leaves that out.
        seed: A non-negative integer. 0 is a seed like any other.
        loss: As in `model.compile`; needed if `build_model` does not compile its model.
        metrics: As in `model.compile`; replaces the model's metrics if given.
        sampler: `"tpe"`, `"gp"`, `"qmc"`, `"random"` or a function from a seed to an Optuna
            sampler; see `OptunaOracle`.
        pruner: `"halving"` for successive halving, see `Halving`; or an Optuna pruner; by default
            every trial has all its epochs.
        strategy: `"fit"`, `"map"`, `"vmap"` or `"auto"`; see `OptimizerTuner`.
        lanes: How many trials are trained together at most.
        max_minutes: When to stop beginning trials, a float > 0: at the first moment after which
            every optimizer has had the same number, early enough for the runs on fresh seeds.
        callbacks: Keras callbacks; each trial gets a copy. Other than `EarlyStopping` they need the
            strategy `"fit"`.
        class_weight: As in `model.fit`.
        evaluate_average: Evaluate with the averaged weights of optimizers that keep an average,
            as with `fix={"use_ema": True}` of the `SearchSpace`.
        storage: URL of a database for the trials, such as `"postgresql://user@host/database"`; by
            default `study.db`, an SQLite file in the folder. The password is not written down:
            give it again, or use PostgreSQL's own `PGPASSWORD` or `.pgpass`.
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
    check_integer("finalist_seeds", finalist_seeds, 0)
    check_integer("seed", seed, 0)
    if max_minutes is not None:
        check_float("max_minutes", max_minutes, POSITIVE)
    train = Data.of(train, batch_size, name="train")
    training = Training(
        train=train,
        validation=Data.of(validation, batch_size, name="validation"),
        epochs=check_integer("epochs", epochs, 1),
        objective=_as_objective(objective),
        callbacks=tuple(callbacks),
        class_weight=class_weight,
        evaluate_average=evaluate_average,
    )
    hypermodel = OptimizerHyperModel(
        build_model,
        space,
        dataset_size=train.examples,
        epochs=epochs,
        batch_size=train.batch_size,
        loss=loss,
        metrics=metrics,
    )
    oracle = OptunaOracle(
        training.objective,
        share * len(space.optimizers),
        sampler=sampler,
        pruner=_as_pruner(pruner),
        starting_points=space.starting_points,
        seed=seed,
    )
    oracle.verbose = 0
    parameters = _rehearse(hypermodel, training)
    space.sample(oracle.hyperparameters)
    settings = Settings(
        space=space.get_config(),
        objective=training.objective.name,
        direction=training.objective.direction,
        trials_per_optimizer=share,
        sampler=sampler if isinstance(sampler, str) else _name_of(sampler),
        startup_trials=oracle.startup_trials,
        block=oracle.block,
        pruner=_described(oracle.pruner),
        epochs=epochs,
        batch_size=train.batch_size,
        dataset_size=train.examples,
        finalist_seeds=finalist_seeds,
        seed=seed,
        build_model=_name_of(build_model),
        parameters=parameters,
        data=f"{train.fingerprint} {training.validation.fingerprint}",
        training=_described_training(training),
        backend=keras.config.backend(),
    )
    study = Study.open(directory, settings, storage)
    try:
        search = _Search(study, oracle, hypermodel, training, strategy, lanes)
        with Progress(study, console or Console(), max_trials) as progress:
            search.run(progress, max_minutes)
        study.write()
    finally:
        study.close()
    return study


class _Search:
    """Trains the trials that a study lacks."""

    def __init__(self, study, oracle, hypermodel, training, strategy, lanes):
        self.study, self.oracle, self.training = study, oracle, training
        settings = study.settings
        if strategy == "auto" and study.trials:  # as it began, to the last bit
            strategy = collections.Counter(t.strategy for t in study.trials).most_common(1)[0][0]
        oracle.use(study.storage, block=settings.block, startup_trials=settings.startup_trials)
        self.tuner = OptimizerTuner(
            oracle,
            hypermodel,
            strategy=strategy,
            lanes=lanes,
            seed=_derived_seed(settings.seed),
            directory=study.directory.parent,
            project_name=study.directory.name,
        )

    def run(self, progress: Progress, max_minutes: float | None) -> None:
        self.tuner.note = progress.note
        for result in self.study.trials:
            progress.advance(result, is_new=False)
        for result in self._trials(max_minutes):
            self.study.trials.append(result)
            progress.advance(result, is_new=True)
        self.study.refresh()
        for result in self._finals():
            self.study.trials.append(result)
            progress.advance(result, is_new=True)
        self.study.refresh()

    def _trials(self, max_minutes: float | None) -> Iterator[TrialResult]:
        """The trials of the search, until none is left, also none of another process."""
        start = time.monotonic()

        def is_late() -> bool:
            if max_minutes is None or not self.oracle.is_even:
                return False
            return time.monotonic() - start + self._seconds_of_finals() > 60.0 * max_minutes

        while True:
            yield from self.tuner.results(self.training, is_late)
            if self.oracle.is_done or is_late():
                return
            time.sleep(PATIENCE)

    def _seconds_of_finals(self) -> float:
        seconds = [trial.seconds for trial in self.study.trials]
        runs = self.study.settings.finalist_seeds * len(self.study.space.optimizers)
        return runs * float(np.median(seconds)) if seconds else 0.0

    def _finals(self) -> Iterator[TrialResult]:
        """The runs of each optimizer's best configuration on fresh seeds."""
        waiting = list(self.study.space.optimizers)
        while waiting:
            for name in list(waiting):
                best = self.study.scoring.best_trial(name)
                if best is None:
                    waiting.remove(name)
                    continue
                group, count = finals_of(name), self.study.settings.finalist_seeds
                claimed = self.study.storage.claim(group, count, self._proposer(name, best))
                yield from self._train_finals(name, claimed)
                trials = self._of(best, self.study.storage.trials(group))
                if len(trials) == count and all(trial.state.is_finished() for trial in trials):
                    waiting.remove(name)
            if waiting:
                time.sleep(PATIENCE)

    def _proposer(self, name: str, best: TrialResult):
        """A function for `Storage.claim`: the runs of `best` that have not been begun."""
        source = self.study.storage.trials(name)[best.number]

        def propose(trials: list[FrozenTrial], limit: int) -> Iterator[FrozenTrial]:
            begun = {trial.user_attrs["run"] for trial in self._of(best, trials)}
            for run in range(self.study.settings.finalist_seeds):
                if run not in begun:
                    trial = running(source.params, source.distributions)
                    trial.user_attrs |= {
                        "of": best.number,
                        "run": run,
                        "hyperparameters": best.hyperparameters,
                    }
                    yield trial

        return propose

    @staticmethod
    def _of(best: TrialResult, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        return [trial for trial in trials if trial.user_attrs.get("of") == best.number]

    def _train_finals(self, name: str, claimed: list[FrozenTrial]) -> Iterator[TrialResult]:
        settings = self.study.settings
        asked = [
            Asked(
                optimizer=name,
                role=FINAL,
                number=trial.user_attrs["run"],
                seed=_derived_seed(settings.seed, 1, trial.user_attrs["run"]),
                hyperparameters=trial.user_attrs["hyperparameters"],
            )
            for trial in claimed
        ]
        results = self.tuner.train(self.training, asked)
        for trial, result in zip(claimed, results, strict=True):
            curve = result.curves.get(settings.objective, ())
            self.study.storage.finish(
                trial, STATES[result.status], result.score, dataclasses.asdict(result), curve
            )
            yield result


def _derived_seed(*parts: int) -> int:
    """A positive 32-bit seed, unrelated for different `parts`; KerasTuner takes 0 for no seed."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0]) or 1


def _rehearse(hypermodel: OptimizerHyperModel, training: Training) -> int:
    """Trains on one batch, so that what is broken stops the search before it starts.

    Returns:
        The number of parameters of the model.
    """
    batch = dataclasses.replace(
        training,
        train=Data.of(training.train.first_batch()),
        validation=Data.of(training.validation.first_batch()),
        epochs=1,
        callbacks=(),
    )
    keras.backend.clear_session()
    try:
        hp = keras_tuner.HyperParameters()
        hypermodel.build(hp)
        model = hypermodel.build(hp)  # twice: it must be a new one
        batch.fit(hypermodel, hp, model)
    except Exception as error:
        raise RuntimeError(f"`build_model` gave no model that trains: {one_line(error)}") from error
    logs = model.history.history
    if training.objective.name not in logs:
        raise ValueError(
            f"`objective` must be one of {', '.join(logs)}. "
            f"Received: objective={training.objective.name!r}"
        )
    return model.count_params()


def _as_pruner(pruner: Any) -> optuna.pruners.BasePruner | None:
    if pruner == "halving":
        return Halving()
    if pruner is None or isinstance(pruner, optuna.pruners.BasePruner):
        return pruner
    raise ValueError(
        "`pruner` must be 'halving', an Optuna pruner, such as `optuna.pruners.MedianPruner()`, or "
        f"None. Received: pruner={pruner!r}"
    )


def _described(pruner: Any) -> str | None:
    if pruner is None:
        return None
    values = {k: v for k, v in vars(pruner).items() if isinstance(v, (int, float, str))}
    return f"{type(pruner).__name__}({', '.join(f'{k}={v!r}' for k, v in values.items())})"


def _described_training(training: Training) -> dict[str, Any]:
    weights = training.class_weight or {}
    return {
        "callbacks": [type(callback).__name__ for callback in training.callbacks],
        "class_weight": {str(label): float(weight) for label, weight in weights.items()},
        "evaluate_average": training.evaluate_average,
    }


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


def _name_of(function: Any) -> str:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '?')}.{name}"
