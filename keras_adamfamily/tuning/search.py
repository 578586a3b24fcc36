"""The search: the same number of trials for each optimizer, then a re-run of each best one."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import os
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import keras_tuner
import numpy as np
import optuna
from optuna.trial import FrozenTrial
from rich.console import Console

from keras_adamfamily.base import without_loss_scaling
from keras_adamfamily.tuning import xla
from keras_adamfamily.tuning.data import Data
from keras_adamfamily.tuning.exploring import explore
from keras_adamfamily.tuning.hypermodel import OptimizerHyperModel
from keras_adamfamily.tuning.oracle import SAMPLERS, Halving, OptunaOracle
from keras_adamfamily.tuning.progress import Progress
from keras_adamfamily.tuning.space import DEFAULT_OPTIMIZERS, SearchSpace
from keras_adamfamily.tuning.storage import STATES, running
from keras_adamfamily.tuning.study import Settings, Study, finals_of
from keras_adamfamily.tuning.together import Together
from keras_adamfamily.tuning.trial import (
    FINAL,
    Asked,
    Training,
    TrialResult,
    check_objective,
    clear_session,
    one_line,
    without_old_objects,
)
from keras_adamfamily.tuning.tuner import PATIENCE, STRATEGIES, OptimizerTuner
from keras_adamfamily.validation import POSITIVE, check_choice, check_float, check_integer

#: Arguments of `tune` that `plan` lacks.
NOT_PLANNED = ("max_minutes", "keep_weights", "storage", "console")


def tune(
    build_model: Callable[..., keras.Model] | keras.Model,
    train: Any,
    validation: Any,
    *,
    directory: str | os.PathLike,
    optimizers: Sequence[str] | SearchSpace = DEFAULT_OPTIMIZERS,
    max_trials: int = 24,
    epochs: int = 15,
    batch_size: int | None = None,
    objective: str | keras_tuner.Objective = "val_accuracy",
    finalist_seeds: int = 8,
    seed: int = 0,
    loss: Any = None,
    metrics: Any = None,
    sampler: str | Callable[[int], optuna.samplers.BaseSampler] = "gp",
    pruner: str | Halving | optuna.pruners.BasePruner | None = None,
    strategy: str = "auto",
    lanes: int = 128,
    max_minutes: float | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    class_weight: Mapping[int, float] | None = None,
    evaluate_average: bool = False,
    keep_weights: bool = True,
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
    the arguments alone, not on interruptions, if the data are the same at each reading; with
    several processes also on which trials are done first. The random
    seeds of Python, NumPy and the backend are set for each trial. What is set for all models, such
    as `keras.config.set_dtype_policy`, holds for those of the search too.

    Args:
        build_model: A function without arguments that returns a new model, or KerasTuner's
            `build_model(hp)`, or a compiled model, of which each trial gets a copy with new initial
            weights where it is trained; see `OptimizerHyperModel`.
        train: Whatever `fit` takes: `(x, y)`, arrays of shapes `(examples, ...)`, or
            `(x, y, sample_weight)`, a `tf.data.Dataset`, a `keras.utils.PyDataset` or a PyTorch
            `DataLoader`.
        validation: Likewise. The scores are measured on it and it picks the winner: keep a test set
            apart to measure the winner.
        directory: Folder of the study, a new or empty one, or that of the same study.
        optimizers: Names, or a `SearchSpace`; AdamW, NAdamW and SGDW by default.
        max_trials: Trials in all, at least one for each optimizer, 24 by default; each gets an
            equal share, rounded down.
        epochs: Epochs of each trial, an integer >= 1, 15 by default.
        batch_size: Examples per batch of arrays, where the space does not search it, 32 by default.
        objective: What to optimize, such as `"val_accuracy"`, the default, or `"val_loss"`, whose
            direction is known; otherwise `"val_f1:max"`, `"val_cost:min"` or a
            `keras_tuner.Objective`.
        finalist_seeds: Number of fresh seeds for the best configurations, 8 by default; fewer than
            6 cannot tell two optimizers apart, 0 leaves that out.
        seed: An integer >= 0, 0 by default, which is a seed like any other.
        loss: As in `model.compile`; needed if `build_model` does not compile its model.
        metrics: As in `model.compile`; replaces the model's metrics if given.
        sampler: `"gp"`, the default, `"tpe"`, `"qmc"`, `"random"` or a function from a seed to an
            Optuna sampler; see `OptunaOracle`.
        pruner: `"halving"` for successive halving, see `Halving`; or an Optuna pruner; by default
            every trial has all its epochs.
        strategy: `"auto"`, the default, `"fit"`, `"map"` or `"vmap"`; see `OptimizerTuner`.
        lanes: How many trials are trained together at most, an integer >= 1, 128 by default.
        max_minutes: When to stop beginning trials, a float > 0: at the first moment after which
            every optimizer has had the same number, early enough for the runs on fresh seeds.
        callbacks: Keras callbacks; each trial gets a copy. They need the strategy `"fit"`, but for
            `kaf.callbacks.EvaluateEMAWeights` and one `EarlyStopping` that restores no weights.
        class_weight: As in `model.fit`.
        evaluate_average: Evaluate with the averaged weights of optimizers that keep an average,
            as with `fix={"use_ema": True}` of the `SearchSpace`.
        keep_weights: Whether the best run of each optimizer keeps its weights in the folder, for
            `study.best_model`; true by default. It is the best of those on fresh seeds, or of the
            search where there are none.
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
        TypeError: If `build_model` is not a function, or `objective` neither a string nor one of
            KerasTuner's.
        RuntimeError: If the model cannot be built or trained on the first batch.
        OSError: If the folder cannot be written.

    Example:

    >>> from keras_adamfamily import tuning
    >>> task = tuning.TASKS["digits"]
    >>> study = tuning.tune(task.build_model, *task.load_data(), directory="runs/digits")
    ... # doctest: +SKIP
    >>> study.best_optimizer()  # doctest: +SKIP
    """
    if max_minutes is not None:
        check_float("max_minutes", max_minutes, POSITIVE)
    asked = _Request(
        build_model,
        train,
        validation,
        optimizers=optimizers,
        max_trials=max_trials,
        epochs=epochs,
        batch_size=batch_size,
        objective=objective,
        finalist_seeds=finalist_seeds,
        seed=seed,
        loss=loss,
        metrics=metrics,
        sampler=sampler,
        pruner=pruner,
        strategy=strategy,
        lanes=lanes,
        callbacks=callbacks,
        class_weight=class_weight,
        evaluate_average=evaluate_average,
    )
    study = Study.open(directory, asked.settings, storage)
    try:
        search = _Search(study, asked, keep_weights)
        shown = Progress(study, console or Console(), max_trials)
        with shown as progress, without_old_objects():
            search.run(progress, max_minutes)
        study.write()
    finally:
        study.close()
    return study


@dataclasses.dataclass(frozen=True)
class SearchPlan:
    """What a search would do.

    Attributes:
        space: The `SearchSpace`.
        of_the_model: The hyperparameters of `build_model(hp)`: by name the values of what is a
            choice, the lowest and the highest of what is a number.
        trials: Trials of the search.
        finals: Runs on fresh seeds.
        epochs: Of each trial that is not given up.
        trial_epochs: The epochs of all of them, if none diverges.
        programs: How many combinations of what is not a number there are: with `"map"` and
            `"vmap"` that many programs to compile.
        strategy: What `strategy` stands for here.
        reason: Why.
        seconds: How long it would take, roughly; `None` if that could not be measured.
    """

    space: SearchSpace
    of_the_model: dict[str, list[Any]]
    trials: int
    finals: int
    epochs: int
    trial_epochs: int
    programs: int
    strategy: str
    reason: str
    seconds: float | None


def plan(
    build_model: Callable[..., keras.Model] | keras.Model,
    train: Any,
    validation: Any,
    **settings: Any,
) -> SearchPlan:
    """What `tune` would do: a probe of a few steps, but no trial, and no folder.

    Args:
        build_model: As in `tune`.
        train: Likewise.
        validation: Likewise.
        **settings: Likewise, but for `directory`, `storage`, `console`, `max_minutes` and
            `keep_weights`.

    Returns:
        The `SearchPlan`.

    Raises:
        TypeError: If an argument is not one of these.
        ValueError: As in `tune`.
        RuntimeError: If the model cannot be built or trained on the first batch.

    Example:

    >>> from keras_adamfamily import tuning
    >>> task = tuning.TASKS["digits"]
    >>> plan = tuning.plan(task.build_model, *task.load_data(), max_trials=48)  # doctest: +SKIP
    >>> plan.seconds  # doctest: +SKIP
    """
    defaults = {k: v for k, v in tune.__kwdefaults__.items() if k not in NOT_PLANNED}
    if unknown := sorted(settings.keys() - defaults.keys()):
        raise TypeError(
            f"`plan` has no argument {unknown[0]!r}. Beside the model and the data it takes "
            f"{', '.join(defaults)}"
        )
    asked = _Request(build_model, train, validation, **{**defaults, **settings})
    oracle, length = asked.oracle, asked.settings
    with tempfile.TemporaryDirectory() as folder:
        tuner = asked.tuner(
            asked.strategy, directory=folder, project_name="plan", note=lambda text: None
        )
        try:
            choice = tuner.look(asked.training)
            seconds = choice.seconds.get(choice.strategy)
            if seconds is None:
                seconds = tuner.seconds(asked.training, choice.strategy)
        finally:
            tuner.hypermodel.restore()
        oracle.close()
    rungs = [*oracle.rungs(length.epochs), length.epochs]
    factor = getattr(oracle.pruner, "reduction_factor", 1)
    share = length.trials_per_optimizer
    epochs, going = 0, share
    for begin, end in itertools.pairwise([0, *rungs]):
        epochs, going = epochs + going * (end - begin), math.ceil(going / factor)
    count = len(asked.space.optimizers)
    finals = count * length.finalist_seeds
    trial_epochs = count * epochs + finals * length.epochs
    numbers = {f"{name}/{argument}" for name, own in asked.space.ranges.items() for argument in own}
    statics = [hp for hp in oracle.hyperparameters.space if hp.name not in numbers]
    # Choices; what has none may be another in each trial.
    kinds = math.prod(len(list(getattr(hp, "values", range(count * share)))) for hp in statics)
    own = [hp for hp in statics if hp.name not in asked.space.names]
    return SearchPlan(
        space=asked.space,
        of_the_model={hp.name: _limits(hp) for hp in own},
        trials=count * share,
        finals=finals,
        epochs=length.epochs,
        trial_epochs=trial_epochs,
        programs=min(kinds, count * share),
        strategy=choice.strategy,
        reason=choice.reason,
        seconds=None if seconds is None else seconds * trial_epochs / length.epochs,
    )


def _limits(hp: Any) -> list[Any]:
    """The values of a choice, or the lowest and the highest."""
    if hasattr(hp, "min_value"):
        return [hp.min_value, hp.max_value]
    return list(hp.values) if hasattr(hp, "values") else [hp.default]


class _Request:
    """What was asked, checked; the arguments are those of `tune`."""

    def __init__(
        self,
        build_model,
        train,
        validation,
        *,
        optimizers,
        max_trials,
        epochs,
        batch_size,
        objective,
        finalist_seeds,
        seed,
        loss,
        metrics,
        sampler,
        pruner,
        strategy,
        lanes,
        callbacks,
        class_weight,
        evaluate_average,
    ):
        space = optimizers if isinstance(optimizers, SearchSpace) else SearchSpace(optimizers)
        _check_fair(space)
        count = len(space.optimizers)
        each = f" Each of the {count} optimizers needs one." if count > 1 else ""
        share = check_integer("max_trials", max_trials, count, each) // count
        check_integer("finalist_seeds", finalist_seeds, 0)
        check_integer("seed", seed, 0)
        check_choice("strategy", strategy, STRATEGIES)
        check_integer("lanes", lanes, 1)
        train = Data.of(train, batch_size, name="train")
        if space.batch_sizes and not train.is_arrays:
            raise ValueError(
                "`batch_size` of the SearchSpace needs arrays: these data come in batches of "
                f"{train.batch_size}"
            )
        self.space, self.strategy, self.lanes = space, strategy, lanes
        self.training = Training(
            train=train,
            validation=Data.of_validation(validation, batch_size),
            epochs=check_integer("epochs", epochs, 1),
            objective=_as_objective(objective),
            callbacks=tuple(callbacks),
            class_weight=class_weight,
            evaluate_average=evaluate_average,
        )
        self.hypermodel = OptimizerHyperModel(
            build_model,
            space,
            dataset_size=train.examples,
            epochs=epochs,
            batch_size=train.batch_size,
            loss=loss,
            metrics=metrics,
        )
        self.oracle = OptunaOracle(
            self.training.objective,
            share * count,
            sampler=sampler,
            pruner=pruner,
            starting_points=space.starting_points,
            seed=seed,
        )
        self.oracle.verbose = 0
        space.sample(self.oracle.hyperparameters)
        if strategy in ("map", "vmap"):
            Together(self.training, self.hypermodel, strategy, lanes).check()
        parameters = _rehearse(self.hypermodel, self.training)
        explore(self.hypermodel, self.oracle)
        self.oracle.check_starting_points()
        self.settings = Settings(
            space=space.get_config(),
            objective=self.training.objective.name,
            direction=self.training.objective.direction,
            trials_per_optimizer=share,
            sampler=sampler if isinstance(sampler, str) else name_of(sampler),
            startup_trials=self.oracle.startup_trials,
            block=self.oracle.block,
            pruner=_described(self.oracle.pruner),
            epochs=epochs,
            batch_size=train.batch_size,
            dataset_size=train.examples,
            finalist_seeds=finalist_seeds,
            seed=seed,
            build_model=name_of(build_model),
            parameters=parameters,
            data=f"{train.fingerprint} {self.training.validation.fingerprint}",
            training=_described_training(self.training),
            backend=keras.config.backend(),
        )

    def tuner(self, strategy: str, **project: Any) -> OptimizerTuner:
        return OptimizerTuner(
            self.oracle,
            self.hypermodel,
            strategy=strategy,
            lanes=self.lanes,
            seed=_derived_seed(self.settings.seed),
            **project,
        )


class _Search:
    """Trains the trials that a study lacks."""

    def __init__(self, study: Study, asked: _Request, keep_weights: bool):
        self.study, self.oracle, self.training = study, asked.oracle, asked.training
        if keep_weights:
            weights = study.weights(lambda text: self.tuner.note(text))
            self.training = dataclasses.replace(asked.training, weights=weights)
        settings, strategy = study.settings, asked.strategy
        if strategy == "auto" and study.trials:  # as it began, to the last bit
            strategy = collections.Counter(t.strategy for t in study.trials).most_common(1)[0][0]
        self.oracle.use(study.storage, block=settings.block, startup_trials=settings.startup_trials)
        self.tuner = asked.tuner(
            strategy, directory=study.directory.parent, project_name=study.directory.name
        )

    def run(self, progress: Progress, max_minutes: float | None) -> None:
        self.tuner.note, self.tuner.say = progress.note, progress.say
        for result in self.study.trials:
            progress.advance(result, is_new=False)
        try:
            for result in self._trials(max_minutes):
                self.study.trials.append(result)
                progress.advance(result, is_new=True)
            self.study.refresh()
            for result in self._finals():
                self.study.trials.append(result)
                progress.advance(result, is_new=True)
        finally:
            self.tuner.hypermodel.restore()
        self.study.refresh()

    def _trials(self, max_minutes: float | None) -> Iterator[TrialResult]:
        """The trials of the search, until none is left, also none of another process."""
        start = time.monotonic()

        def is_late() -> bool:
            if max_minutes is None or not self.oracle.is_even or not self.study.trials:
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
        train=training.train.first(),
        validation=training.validation.first(),
        epochs=1,
        callbacks=(),
    )
    if keras.config.backend() == "jax":
        xla.use_compilation_cache()
    hp, draws = keras_tuner.HyperParameters(), []
    try:
        for seed in (1, 2):  # it must be a new one, and another one
            clear_session()
            keras.utils.set_random_seed(seed)
            model = hypermodel.build(hp)
            draws.append((random.random(), np.random.random()))
        batch.fit(hypermodel, hp, model)
    except Exception as error:
        raise RuntimeError(f"`build_model` gave no model that trains: {one_line(error)}") from error
    finally:
        hypermodel.restore()
    if any(one == other for one, other in zip(*draws, strict=True)):
        raise RuntimeError(
            "`build_model` sets the random seed itself, Python's, NumPy's or both, so that runs on "
            "fresh seeds would draw the same. Leave it out: the search sets it before each trial, "
            "and `np.random.default_rng(0)` draws what is to be the same in all"
        )
    _check_trained_by(model.optimizer)
    logs = {name: values[-1] for name, values in model.history.history.items()}
    if np.ndim(logs.get(training.objective.name, 0.0)):
        raise ValueError(
            f"`objective` {training.objective.name!r} must be a number and is several, one for "
            "each class: give its metric an average, such as `average='macro'`"
        )
    check_objective(training.objective.name, [name for name, x in logs.items() if not np.ndim(x)])
    return model.count_params()


def _check_trained_by(optimizer: keras.optimizers.Optimizer) -> None:
    """Raises `RuntimeError` for a model whose training leaves its optimizer alone."""
    scaled = optimizer is not without_loss_scaling(optimizer)  # it may skip the first steps
    iterations = int(keras.ops.convert_to_numpy(optimizer._iterations))
    if not scaled and not iterations:  # batches, of which several may be a step
        raise RuntimeError(
            "`build_model` gave a model whose `train_step` does not use `self.optimizer`, the one "
            "that `compile` is given and that the search replaces. Optimizers that the model keeps "
            "by other names are not searched: use `self.optimizer` for what is to be tuned"
        )


def resume(
    study: Study,
    build_model: Callable[..., keras.Model] | keras.Model,
    train: Any,
    validation: Any,
    *,
    max_trials: int | None = None,
    **changes: Any,
) -> Study:
    """Goes on with a study, with its own settings.

    Args:
        study: The study.
        build_model: As in `tune`, of the study.
        train: Likewise.
        validation: Likewise.
        max_trials: Trials in all; by default those that were planned.
        **changes: Other arguments of `tune`, such as `console`, `max_minutes` and `storage`; and
            those that only Python can make, where the study had such: `callbacks`, a `pruner` or a
            `sampler` of one's own, `loss` and `metrics`.

    Returns:
        The study, opened anew, with the trials that were added.

    Raises:
        ValueError: If something of the latter is missing, or as in `tune`.

    Example:

    >>> from keras_adamfamily import tuning
    >>> task = tuning.TASKS["digits"]
    >>> study = tuning.Study("runs/digits")  # doctest: +SKIP
    >>> tuning.resume(study, task.build_model, *task.load_data())  # doctest: +SKIP
    """
    settings, count = study.settings, len(study.space.optimizers)
    planned = settings.trials_per_optimizer * count
    pruner = settings.pruner
    halving = re.fullmatch(r"Halving\(reduction_factor=(\d+), min_epochs=(\d+)\)", pruner or "")
    arguments = {
        "directory": study.directory,
        "optimizers": study.space,
        "max_trials": planned if max_trials is None else max_trials,
        "epochs": settings.epochs,
        "objective": f"{settings.objective}:{settings.direction}",
        "finalist_seeds": settings.finalist_seeds,
        "seed": settings.seed,
        "sampler": settings.sampler,
        "pruner": Halving(*map(int, halving.groups())) if halving else pruner,
        "evaluate_average": settings.training["evaluate_average"],
        "class_weight": {int(k): v for k, v in settings.training["class_weight"].items()} or None,
    }
    needed = {
        "sampler": settings.sampler not in SAMPLERS,
        "pruner": pruner is not None and not halving,
        "callbacks": bool(settings.training["callbacks"]),
    }
    missing = [name for name, is_needed in needed.items() if is_needed and name not in changes]
    if missing:
        raise ValueError(
            f"`{missing[0]}` of the study in {str(study.directory)!r} is not one that can be read "
            f"from the folder: pass it again, `tuning.resume(study, ..., {missing[0]}=...)`"
        )
    study.close()
    train = Data.of(train, changes.get("batch_size", settings.batch_size), name="train")
    if train.is_arrays:  # validation data follow the batches of arrays alone
        arguments["batch_size"] = settings.batch_size
    return tune(build_model, train, validation, **{**arguments, **changes})


def _described(pruner: Any) -> str | None:
    if pruner is None or isinstance(pruner, Halving):
        return pruner and repr(pruner)
    values = {k: v for k, v in vars(pruner).items() if isinstance(v, (int, float, str))}
    return f"{type(pruner).__name__}({', '.join(f'{k}={v!r}' for k, v in values.items())})"


def _described_training(training: Training) -> dict[str, Any]:
    weights = training.class_weight or {}
    return {
        "callbacks": [type(callback).__name__ for callback in training.callbacks],
        "class_weight": {str(label): float(weight) for label, weight in weights.items()},
        "evaluate_average": training.evaluate_average,
        "dtype_policy": keras.config.dtype_policy().name,
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


def name_of(function: Any) -> str:
    """Module and name of a function, or of an object's class."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '?')}.{name}"
