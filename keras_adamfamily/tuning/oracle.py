"""KerasTuner's oracle, with Optuna behind it: what to try next, and what became of it."""

from __future__ import annotations

import copy
import functools
import json
import math
import numbers
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np
import optuna
from keras_tuner.engine.trial import Trial, TrialStatus
from optuna import distributions
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import qmc

from keras_adamfamily.tuning import gaussian
from keras_adamfamily.tuning.storage import (
    RESULT,
    STATES,
    Storage,
    by_epoch,
    quiet,
    running,
    sqlite_url,
)
from keras_adamfamily.tuning.trial import DIVERGED, FAILED, OK
from keras_adamfamily.validation import check_integer

SAMPLERS = ("gp", "tpe", "qmc", "random")
MOST_KNOWN = 500  # trials from which a Gaussian process learns at most


def synchronized(method: Callable) -> Callable:
    """KerasTuner's lock of an oracle, let go of when the method raises too.

    KerasTuner's own keeps it then, and a chief waits for it for ever.
    """

    @keras_tuner.synchronized
    def tried(*args, **kwargs):
        try:
            return method(*args, **kwargs), None
        except BaseException as error:
            return None, error

    @functools.wraps(method)
    def locked(*args, **kwargs):
        result, error = tried(*args, **kwargs)
        if error is not None:
            raise error
        return result

    return locked


class Halving:
    """Successive halving: at each rung the better 1/`reduction_factor` of the trials go on.

    The rungs are at `epochs / reduction_factor ** k`. Trials that are trained together wait for one
    another at each rung, those of a block are compared, and the survivors go on with their weights,
    their optimizer's state and their place in the data as if nothing had happened: 81 trials of 54
    epochs take 486 epochs, not 4374. One trial at a time (strategy `"fit"`), the form is
    asynchronous: a trial is compared with those of its block that have reached the rung before it.

    Args:
        reduction_factor: An integer >= 2, 3 by default.
        min_epochs: The first rung is not before this epoch, an integer >= 1, 2 by default: after a
            single epoch, what learns fast leads over what ends well.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> from keras_adamfamily import tuning
    >>> tuning.Halving().rungs(54)
    [2, 6, 18]
    """

    def __init__(self, reduction_factor: int = 3, min_epochs: int = 2):
        self.reduction_factor = check_integer("reduction_factor", reduction_factor, 2)
        self.min_epochs = check_integer("min_epochs", min_epochs, 1)

    def __repr__(self) -> str:
        return f"Halving(reduction_factor={self.reduction_factor}, min_epochs={self.min_epochs})"

    def rungs(self, epochs: int) -> list[int]:
        """The epochs after which trials are given up, in a training of `epochs`."""
        rungs = []
        while epochs / self.reduction_factor >= self.min_epochs:
            epochs = epochs / self.reduction_factor
            rungs.append(round(epochs))
        return sorted(set(rungs))

    def cut(self, scores: Sequence[float], direction: str) -> float:
        """The worst score that goes on; all those of the block that got as far are needed."""
        kept = math.ceil(len(scores) / self.reduction_factor)
        return sorted(scores, reverse=direction == "max")[kept - 1]


class OptunaOracle(keras_tuner.Oracle):
    """Proposes trials by a Gaussian process or Optuna, and keeps them in a database of Optuna's.

    It goes into any tuner of KerasTuner: `keras_tuner.Tuner(OptunaOracle(...), hypermodel)`.
    Unlike KerasTuner's own oracles it goes on after a crash as if nothing had happened, is shared
    by any number of processes (give each the same `storage`), takes 0 for a seed and does not give
    up after three failed trials.

    Where the space has a choice named `group_by`, each of its values gets the same number of
    trials: no optimizer gets the better of another because its first trials were lucky.

    The first trials are quasi-random. Where Gaussian processes learn from all groups, each group
    has places of its own, which tell more together; else all have the same. Trials are proposed by
    blocks of `block`: those of a block know the results of the blocks before it and the places, not
    the results, of one another. So the list of trials depends on the seed alone, not on how many
    are trained at a time; where several processes share them, also on which are done first.

    Args:
        objective: As in every oracle: `"val_accuracy"`, `keras_tuner.Objective("val_f1", "max")`.
        max_trials: Trials in all, an integer >= 1, 24 by default.
        sampler: `"gp"`, by default, Gaussian processes, one for each group, that learn how far the
            groups are alike in `learning_rate`, say, which is `AdamW/learning_rate` of one of them.
            `"tpe"`, Optuna's tree-structured Parzen estimator, multivariate, of each group's own
            trials; it takes over from `"gp"` where some hyperparameters depend on others, with a
            pruner, and after 500 trials. `"qmc"`, quasi-random (scrambled Sobol points).
            `"random"`. Or a function from a seed to an Optuna sampler.
        startup_trials: How many trials of each group are quasi-random before the sampler takes
            over; by default a quarter of its trials, from 4 to 10.
        block: How many trials a block has; by default an eighth of the trials of a group, from 2
            to 32; with a `Halving`, which compares those of a block, a third, at least 9; and all
            of them where the sampler does not learn.
        group_by: Name of a `Choice`, `"optimizer"` by default; `None` for one group.
        starting_points: Known good settings, tried first: `{name: value}` each. What one leaves
            out is proposed.
        pruner: `"halving"`, a `Halving`, or an Optuna pruner, which looks at the objective after
            each epoch; none by default. `OptimizerTuner` asks it, KerasTuner's own tuners do not.
        storage: URL of the database, `"postgresql://user@host/database"`; by default
            `study.db`, an SQLite file, in the project's folder.
        study_name: Its name in the database, by default the project's name.
        seed: A non-negative integer, 0 by default.
        hyperparameters: As in every oracle.
        allow_new_entries: As in every oracle.
        tune_new_entries: As in every oracle.

    Raises:
        ValueError: If an argument is out of range, the database cannot be opened, or a starting
            point is not in the space.

    Example:

    >>> import keras_tuner
    >>> from keras_adamfamily import tuning
    >>> oracle = tuning.OptunaOracle("val_loss", max_trials=8, sampler="gp")
    >>> tuner = keras_tuner.Tuner(oracle, hypermodel, directory="runs")  # doctest: +SKIP
    """

    def __init__(
        self,
        objective: Any = None,
        max_trials: int = 24,
        *,
        sampler: str | Callable[[int], optuna.samplers.BaseSampler] = "gp",
        startup_trials: int | None = None,
        block: int | None = None,
        group_by: str | None = "optimizer",
        starting_points: Sequence[Mapping[str, Any]] = (),
        pruner: str | Halving | optuna.pruners.BasePruner | None = None,
        storage: str | None = None,
        study_name: str | None = None,
        seed: int = 0,
        hyperparameters: keras_tuner.HyperParameters | None = None,
        allow_new_entries: bool = True,
        tune_new_entries: bool = True,
    ):
        check_integer("max_trials", max_trials, 1)
        check_integer("seed", seed, 0)
        if startup_trials is not None:
            check_integer("startup_trials", startup_trials, 0)
        if block is not None:
            check_integer("block", block, 1)
        super().__init__(
            objective=objective,
            max_trials=max_trials,
            hyperparameters=hyperparameters,
            allow_new_entries=allow_new_entries,
            tune_new_entries=tune_new_entries,
            seed=seed or 1,  # the base class takes 0 for none
        )
        self.seed = seed
        self.sampler = _checked_sampler(sampler)
        self.pruner = _checked_pruner(pruner)
        self.group_by = group_by
        self.starting_points = [dict(point) for point in starting_points]
        self._startup_trials, self._block = startup_trials, block
        self._url, self._study_name = storage, study_name
        self.storage: Storage | None = None
        self._claimed: dict[str, FrozenTrial] = {}
        self._curves: dict[str, list[float | None]] = {}
        self._results: dict[str, dict[str, Any]] = {}
        self._ended_of: dict[str, tuple[optuna.Study, set[int]]] = {}

    def use(self, storage: Storage, *, block: int, startup_trials: int) -> None:
        """Keeps the trials of a study that has begun, in the order in which it has begun them."""
        self.storage, self._block, self._startup_trials = storage, block, startup_trials

    # The groups.

    def groups(self) -> list[str]:
        """The names of the groups: the values of the choice `group_by`, or one without a name."""
        for hp in self.hyperparameters.space:
            if hp.name == self.group_by and not hp.conditions and hasattr(hp, "values"):
                return [str(value) for value in hp.values]
        return [""]

    @property
    def share(self) -> int:
        """The number of trials of each group."""
        return max(1, self.max_trials // len(self.groups()))

    @property
    def learns(self) -> bool:
        """Whether later trials depend on the results of earlier ones."""
        return self.sampler not in ("qmc", "random")

    @property
    def block(self) -> int:
        """The number of trials that are proposed together."""
        if self._block is not None:
            return self._block
        if not self.learns:
            return self.share
        if isinstance(self.pruner, Halving):  # which compares the trials of a block
            return min(self.share, max(9, math.ceil(self.share / 3)))
        return min(max(2, math.ceil(self.share / 8)), 32)

    @property
    def startup_trials(self) -> int:
        """The number of quasi-random trials of each group."""
        if not self.learns:
            return self.share
        if self._startup_trials is not None:
            return self._startup_trials
        return min(max(4, self.share // 4), 10)

    # The protocol of KerasTuner.

    @synchronized
    def create_trial(self, tuner_id: str) -> Trial:
        """The next trial; its status is `"STOPPED"` if there is none to begin."""
        if tuner_id in self.ongoing_trials:
            return self.ongoing_trials[tuner_id]
        self.tuner_ids.add(tuner_id)
        trials = self.create_trials(tuner_id, 1)
        if trials:
            return trials[0]
        self.tuner_ids.discard(tuner_id)
        return Trial(self.get_space(), "none", TrialStatus.STOPPED)

    @synchronized
    def create_trials(self, tuner_id: str, limit: int) -> list[Trial]:
        """Up to `limit` trials of one group and one block; none when all have been begun.

        Args:
            tuner_id: Who asks. With a limit of 1 the same one gets the same trial until it is
                ended, as in every oracle.
            limit: How many at most.
        """
        storage = self._opened()
        with storage.lock():
            there = {name: storage.trials(name) for name in self.groups()}
            turns = sorted(there, key=lambda name: len(there[name]) // self.block)
            abandoned = [name for name in turns if any(map(storage.is_abandoned, there[name]))]
            for name in [*abandoned, *turns]:
                claimed = storage.claim(name, limit, self._proposer(name, there), there[name])
                if claimed:
                    break
            else:
                return []
        trials = [self._begun(name, frozen) for frozen in claimed]
        for trial in trials:
            self.ongoing_trials[tuner_id if limit == 1 else trial.trial_id] = trial
            self._display.on_trial_begin(trial)
        return trials

    def _begun(self, group: str, frozen: FrozenTrial) -> Trial:
        trial = self._as_trial(group, frozen)
        self._claimed[trial.trial_id] = frozen
        self._curves[trial.trial_id] = []
        self.trials[trial.trial_id] = trial
        self.start_order.append(trial.trial_id)
        return trial

    def _has_ended(self, trial_id: str) -> bool:
        """Whether a trial has ended; takes over one of a dead chief's, whose worker goes on."""
        if trial_id in self._claimed:
            return False
        group, _, number = trial_id.rpartition("-")
        frozen = self._opened().take_over(group, int(number))
        if frozen is None:
            return True
        self.ongoing_trials[trial_id] = self._begun(group, frozen)
        return False

    @synchronized
    def update_trial(self, trial_id: str, metrics: Mapping[str, float], step: int = 0) -> Trial:
        """Takes the metrics after a step (an epoch, counted from 0).

        Returns:
            The trial; its status is `"STOPPED"` if the pruner says that it is not worth going on,
            or if another worker was given it as well, and has ended it.
        """
        if self._has_ended(trial_id):
            return Trial(self.get_space(), trial_id, TrialStatus.STOPPED)
        trial = self.trials[trial_id]
        for name, value in metrics.items():
            if not trial.metrics.exists(name):
                direction = self.objective.direction if name == self.objective.name else None
                trial.metrics.register(name, direction or "min")
            trial.metrics.update(name, value, step=step)
        value = metrics.get(self.objective.name, math.nan)
        curve = self._curves[trial_id]
        curve.extend([None] * (step + 1 - len(curve)))
        curve[step] = float(value) if math.isfinite(value) else None
        whole = isinstance(self.pruner, Halving)  # which looks at its rungs alone
        if self.pruner is not None and not whole and self._is_hopeless(trial_id):
            trial.status = TrialStatus.STOPPED
        return trial

    @synchronized
    def end_trial(self, trial: Trial) -> None:
        """Ends a trial, whatever became of it; one that has ended stays as it is."""
        if self._has_ended(trial.trial_id):
            return
        known = self.trials[trial.trial_id]
        known.status, known.message = trial.status, trial.message
        known.hyperparameters = trial.hyperparameters
        known_space = len(self.hyperparameters.space)
        self.update_space(trial.hyperparameters)  # a stock tuner meets some at some values alone
        if len(self.hyperparameters.space) > known_space:
            self.save()
        curve = self._curves.pop(trial.trial_id)
        result = self._results.pop(trial.trial_id, None) or self._result(known)
        curve = result.get("curves", {}).get(self.objective.name, curve)
        if known.status == TrialStatus.COMPLETED and result["score"] is not None:
            known.score, known.best_step = result["score"], len(curve) - 1
        elif known.status != TrialStatus.STOPPED:
            known.status = TrialStatus.FAILED
        self._opened().finish(
            self._claimed.pop(trial.trial_id),
            STATES[result["status"]],
            result["score"],
            result,
            curve,
        )
        self.end_order.append(trial.trial_id)
        asked = [name for name, t in self.ongoing_trials.items() if t.trial_id == trial.trial_id]
        for name in asked:
            del self.ongoing_trials[name]
        self._display.on_trial_end(known)

    def rungs(self, epochs: int) -> list[int]:
        """After which epochs trials that are trained together may be given up."""
        if self.pruner is None:
            return []
        if isinstance(self.pruner, Halving):
            return self.pruner.rungs(epochs)
        step = math.ceil(epochs / 10)
        return list(range(step, epochs, step))

    def survivors(self, curves: Mapping[str, Sequence[float]]) -> list[str]:
        """Which of the trials that are trained together go on after a rung.

        Args:
            curves: The objective by epoch, by trial id; they are equally long.
        """
        if not isinstance(self.pruner, Halving):
            self._curves.update({trial_id: list(curve) for trial_id, curve in curves.items()})
            return [trial_id for trial_id in curves if not self._is_hopeless(trial_id)]
        epoch = len(next(iter(curves.values())))
        scores = {trial_id: curve[-1] for trial_id, curve in curves.items()}
        cut = self.pruner.cut([*scores.values(), *self._peers(scores, epoch)], self._direction)
        sign = -1.0 if self._direction == "max" else 1.0
        return [trial_id for trial_id, score in scores.items() if sign * score <= sign * cut]

    def _peers(self, trial_ids: Iterable[str], epoch: int) -> list[float]:
        """The scores after an epoch of the other trials of the block, which have ended."""
        numbers = {self._claimed[trial_id].number for trial_id in trial_ids}
        group, block = next(iter(trial_ids)).rpartition("-")[0], min(numbers) // self.block
        curves = [
            json.loads(trial.user_attrs[RESULT]).get("curves", {}).get(self.objective.name, ())
            for trial in self._opened().trials(group)
            if trial.number // self.block == block
            and trial.number not in numbers
            and RESULT in trial.user_attrs
        ]
        return [c[epoch - 1] for c in curves if len(c) >= epoch and c[epoch - 1] is not None]

    @property
    def _direction(self) -> str:
        return self.objective.direction

    def describe(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Says what `end_trial` is to keep of a trial, as JSON; at least `status` and `score`."""
        self._results[trial_id] = dict(result)

    def save(self, fname: str | None = None) -> None:
        """Keeps the space; the trials are kept as they end."""
        space = self.hyperparameters.get_config()
        root = self._opened().group("")
        if root.user_attrs.get("space") != space:
            root.set_user_attr("space", space)

    def reload(self, fname: str | None = None) -> None:
        """Reads the space and the trials from the database."""
        storage = self._opened()
        space = storage.group("").user_attrs.get("space")
        if space is not None:
            self.hyperparameters = keras_tuner.HyperParameters.from_config(space)
        for name in self.groups():
            for frozen in storage.trials(name):
                if frozen.state.is_finished():
                    trial = self._as_trial(name, frozen)
                    self.trials[trial.trial_id] = trial

    @property
    def is_done(self) -> bool:
        """Whether all trials have ended, those of other processes too."""
        trials = [self._opened().trials(name) for name in self.groups()]
        return all(
            len(own) >= self.share and all(t.state.is_finished() for t in own) for own in trials
        )

    @property
    def is_even(self) -> bool:
        """Whether each group has had the same number of trials so far."""
        return len({len(self._opened().trials(name)) for name in self.groups()}) == 1

    def close(self) -> None:
        """Lets go of the database, and of trials that were begun and not ended."""
        if self.storage is not None:
            self.storage.close()
            self.storage = None

    def _opened(self) -> Storage:
        if self.storage is None:
            url = self._url
            if url is None:
                folder = Path(self._project_dir)
                folder.mkdir(parents=True, exist_ok=True)
                url = sqlite_url(folder / "study.db")
            name = self._study_name or self.project_name
            self.storage = Storage(url, name, self._direction)
        return self.storage

    def _result(self, trial: Trial) -> dict[str, Any]:
        """What is known of a trial from KerasTuner's protocol alone."""
        if trial.status != TrialStatus.COMPLETED:
            return {"status": FAILED, "score": None, "cause": trial.message}
        score = trial.metrics.get_best_value(self.objective.name)
        status = OK if score is not None and math.isfinite(score) else DIVERGED
        return {"status": status, "score": float(score) if status == OK else None, "cause": None}

    def _as_trial(self, group: str, frozen: FrozenTrial) -> Trial:
        hps = self.hyperparameters.copy()

        def value(hp, name, kind):
            """One that was not met before the trial has its default there."""
            default = hp.default if name == hp.name else hp.value_to_prob(hp.default)
            return frozen.params.get(name, default)

        hps.values = self._walk(group, value)
        number = f"{frozen.number:04d}"
        trial = Trial(hps, f"{group}-{number}" if group else number, TrialStatus.RUNNING)
        if frozen.state.is_finished():
            complete = frozen.state == TrialState.COMPLETE
            trial.status = TrialStatus.COMPLETED if complete else TrialStatus.FAILED
            trial.score = frozen.value if complete else None
        return trial

    # What to try next.

    def _proposer(self, group: str, there: Mapping[str, list[FrozenTrial]]):
        """A function for `Storage.claim`; `there` are the trials of all groups."""

        def propose(trials: list[FrozenTrial], limit: int) -> list[FrozenTrial]:
            start = len(trials)
            first = start // self.block * self.block  # of the block
            end = min(first + self.block, start + limit, self.share)
            placed = max(self.startup_trials, len(self._points(group)))
            with quiet():
                proposed = [self._quasi_random(group, n) for n in range(start, min(end, placed))]
                if end > max(start, placed):
                    known = self._known(there, first)
                    few = self._has_processes and 0 < len(known) <= MOST_KNOWN
                    suggest = self._by_process if few else self._by_optuna
                    proposed += suggest(group, trials, known, max(start, placed), end)
                return [running(params, kinds) for params, kinds in proposed]

        return propose

    def _known(
        self, there: Mapping[str, list[FrozenTrial]], first: int
    ) -> list[tuple[str, FrozenTrial]]:
        """The trials of all groups that have ended, of the blocks before the one of trial `first`.

        So no group knows more than another. One process alone has then ended them all, so it does
        not matter when it was interrupted.
        """
        return [
            (name, trial)
            for name, trials in there.items()
            for trial in trials[:first]
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        ]

    @property
    def _has_processes(self) -> bool:
        """Whether Gaussian processes learn from all groups."""
        return (
            self.sampler == "gp"
            and self.share > self.startup_trials
            and self.pruner is None
            and not self._has_conditions
            and any(map(self._axes, self.groups()))
        )

    def _by_process(self, group, trials, known, start, end):
        """The trials from `start` to `end` by a Gaussian process; the others of the block count."""
        first = start // self.block * self.block
        placed = max(self.startup_trials, len(self._points(group)), first)
        names = self.groups()
        axes_of = {name: self._axes(name) for name in names}
        axes = {axis: hp for theirs in axes_of.values() for axis, hp in theirs.items()}
        own = axes_of[group]
        sign = -1.0 if self._direction == "max" else 1.0

        def place(name: str, params: Mapping[str, Any]) -> list[float]:
            theirs = axes_of[name]
            return [_coordinate(theirs[axis], params) if axis in theirs else 0.5 for axis in axes]

        begun = [trial.params for trial in trials[first:placed]]
        yet = range(first + len(begun), placed)
        pending = [place(group, x) for x in begun]
        pending += [place(group, self._quasi_random(group, n)[0]) for n in yet]
        places = gaussian.propose(
            np.array([place(name, trial.params) for name, trial in known]),
            np.array([names.index(name) for name, _ in known]),
            np.array([math.inf if t.value is None else sign * t.value for _, t in known]),
            names.index(group),
            end - placed,
            random=np.random.default_rng([self.seed, first]),
            pending=np.reshape(pending, (-1, len(axes))),
            choices=[_unordered(hp) for hp in axes.values()],
            free=[axis in own for axis in axes],
        )
        found = [dict(zip(axes, place, strict=True)) for place in places[start - placed :]]
        return [self._at(group, [at[axis] for axis in own]) for at in found]

    def _axes(self, group: str) -> dict[Any, Any]:
        """The searched hyperparameters of a group, in order; keys are the same for what is alike.

        `AdamW/learning_rate` and `SGDW/learning_rate` are, if they are of one kind.
        """
        names = {hp.name for hp in self.hyperparameters.space}
        axes = {}
        for hp in self.hyperparameters.space:
            searched = not isinstance(hp, keras_tuner.engine.hyperparameters.Fixed)
            here = all(group in map(str, condition.values) for condition in hp.conditions)
            if searched and here and hp.name != self.group_by:
                short = hp.name.removeprefix(f"{group}/")
                values = tuple(hp.values) if hasattr(hp, "values") else ()
                axes[hp.name if short in names else short, type(hp), values] = hp
        return axes

    def _by_optuna(self, group, trials, known, start, end):
        """The trials from `start` to `end` by an Optuna sampler that sees the group's own."""
        study = self._mirror(trials, start // self.block * self.block)
        return [self._suggested(study, group, number) for number in range(start, end)]

    def _mirror(self, trials: Sequence[FrozenTrial], known: int) -> optuna.Study:
        """A study in memory with the trials so far; the results of only the first `known`."""
        study = self._study_in_memory()
        for trial in trials:
            if trial.number >= known:
                trial = copy.copy(trial)
                trial.state, trial.values, trial.datetime_complete = TrialState.RUNNING, None, None
            else:
                trial = self._with_curve(trial)
            study.add_trial(trial)
        return study

    def _study_in_memory(self) -> optuna.Study:
        with quiet():
            return optuna.create_study(direction=self._opened().direction)

    def _with_curve(self, trial: FrozenTrial) -> FrozenTrial:
        """A trial that has the whole of its curve for Optuna, if it has ended."""
        trial = copy.copy(trial)
        if RESULT in trial.user_attrs:
            curves = json.loads(trial.user_attrs[RESULT]).get("curves", {})
            trial.intermediate_values = by_epoch(curves.get(self.objective.name, []))
        return trial

    def _ended(self, group: str) -> optuna.Study:
        """A study in memory of the trials that have ended, to which each is added once."""
        if group not in self._ended_of:
            self._ended_of[group] = self._study_in_memory(), set()
        study, known = self._ended_of[group]
        for trial in self._opened().trials(group):
            if trial.state.is_finished() and trial.number not in known:
                known.add(trial.number)
                study.add_trial(self._with_curve(trial))
        return study

    def _suggested(self, study: optuna.Study, group: str, number: int):
        study.sampler = self._sampler(number)
        trial = study.ask()
        self._walk(group, lambda hp, name, kind: _suggest(trial, name, kind))
        return trial.params, trial.distributions

    def _quasi_random(self, group: str, number: int):
        """The point `number` of a sequence, but for the values that a starting point has."""
        dimensions = max(1, len(self.hyperparameters.space))
        if self.sampler == "random":
            point = np.random.default_rng([self.seed, number]).random(dimensions)
        else:  # what learns across groups learns more from different places
            own = self.groups().index(group) if self._has_processes else 0
            random = np.random.default_rng([self.seed, own])
            sequence = qmc.Sobol(dimensions, scramble=True, rng=random)
            point = (sequence.fast_forward(number) if number else sequence).random(1)[0]
        points = self._points(group)
        return self._at(group, point, points[number] if number < len(points) else {})

    def _at(self, group: str, point: Iterable[float], start: Mapping[str, Any] = {}):
        """What lies at a point of the unit cube, but for the values that `start` has."""
        coordinates = iter(point)
        params, kinds = {}, {}

        def place(hp, name, kind):
            value = next(coordinates)
            if name == hp.name:
                value = hp.prob_to_value(value)
                if not isinstance(kind, distributions.CategoricalDistribution):
                    value = min(max(value, kind.low), kind.high)
                value = start.get(hp.name, value)
            elif hp.name in start:
                value = hp.value_to_prob(start[hp.name])
            params[name], kinds[name] = value, kind
            return value

        self._walk(group, place)
        return params, kinds

    def check_starting_points(self) -> None:
        """Raises a `ValueError` for one that is not in the space as it is known by now."""
        for group in self.groups():
            for point in self._points(group):
                for name, value in point.items():
                    hps = [hp for hp in self.hyperparameters.space if hp.name == name]
                    if not any(_holds(hp, value) for hp in hps):
                        raise ValueError(
                            f"`starting_points` has {name}={value!r}, which is not in the space: "
                            f"it is searched as {hps[0]}"
                        )

    def _points(self, group: str) -> list[dict[str, Any]]:
        """The starting points of a group, by the names of the space."""
        names = {hp.name for hp in self.hyperparameters.space}
        points = []
        for given in self.starting_points:
            point = {
                name if name in names else f"{group}/{name}": value for name, value in given.items()
            }
            if point.get(self.group_by, group) != group:
                continue
            unknown = [name for name in given if not {name, f"{group}/{name}"} & names]
            if unknown:
                raise ValueError(
                    f"`starting_points` has {unknown[0]!r}, which is not searched. "
                    f"Searched are {', '.join(sorted(names))}"
                )
            points.append(point)
        return points

    def _walk(self, group: str, value_of: Callable[[Any, str, Any], Any]) -> dict[str, Any]:
        """Gives each active hyperparameter a value, in the order of the space.

        Args:
            group: The value of `group_by`.
            value_of: From a KerasTuner hyperparameter, its name at Optuna and its distribution to
                its value at Optuna.
        """
        hps = keras_tuner.HyperParameters()
        for hp in self.hyperparameters.space:
            hps.merge([hp])
            if not hps.is_active(hp):
                continue
            kind = _distribution(hp)
            if hp.name == self.group_by and group:
                hps.values[hp.name] = group
            elif isinstance(hp, keras_tuner.engine.hyperparameters.Fixed):
                hps.values[hp.name] = hp.value
            elif kind is None:
                name, kind = f"{hp.name} (quantile)", distributions.FloatDistribution(0.0, 1.0)
                hps.values[hp.name] = hp.prob_to_value(value_of(hp, name, kind))
            else:
                hps.values[hp.name] = value_of(hp, hp.name, kind)
        return hps.values

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """A sampler that depends on the trial's number alone, not on who asks, and when."""
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        if self.sampler in ("gp", "tpe"):
            return optuna.samplers.TPESampler(
                n_startup_trials=1, multivariate=True, group=self._has_conditions, seed=seed
            )
        return self.sampler(seed)

    @property
    def _has_conditions(self) -> bool:
        """Whether some hyperparameters are there for some trials of a group only."""
        return any(
            condition.name != self.group_by
            for hp in self.hyperparameters.space
            for condition in hp.conditions
        )

    def _is_hopeless(self, trial_id: str) -> bool:
        frozen = copy.copy(self._claimed[trial_id])
        frozen.intermediate_values = by_epoch(self._curves[trial_id])
        if not frozen.intermediate_values:
            return False
        group = trial_id.rpartition("-")[0]
        return self.pruner.prune(self._ended(group), frozen)


def _checked_pruner(pruner: Any) -> Any:
    if isinstance(pruner, str) and pruner == "halving":
        return Halving()
    kinds = optuna.pruners
    if isinstance(pruner, (kinds.SuccessiveHalvingPruner, kinds.HyperbandPruner)):
        raise ValueError(
            f"`pruner` {type(pruner).__name__} keeps notes of its own in Optuna's trials, which is "
            "not supported: use `Halving`"
        )
    if pruner is None or isinstance(pruner, (Halving, kinds.BasePruner)):
        return pruner
    raise ValueError(
        "`pruner` must be 'halving', a `Halving`, an Optuna pruner, such as "
        f"`optuna.pruners.MedianPruner()`, or None. Received: pruner={pruner!r}"
    )


def _checked_sampler(sampler: Any) -> Any:
    if sampler in SAMPLERS or (callable(sampler) and not isinstance(sampler, type)):
        return sampler
    raise ValueError(
        f"`sampler` must be one of {', '.join(map(repr, SAMPLERS))}, or a function from a seed to "
        "an Optuna sampler, such as `lambda seed: optuna.samplers.CmaEsSampler(seed=seed)`. "
        f"Received: sampler={sampler!r}"
    )


def _distribution(hp) -> distributions.BaseDistribution | None:
    """Optuna's distribution of a KerasTuner hyperparameter; `None` where it has no such one."""
    kinds = keras_tuner.engine.hyperparameters
    if isinstance(hp, kinds.Boolean):
        return distributions.CategoricalDistribution([False, True])
    if isinstance(hp, kinds.Choice):
        return distributions.CategoricalDistribution(list(hp.values))
    if isinstance(hp, kinds.Fixed) or hp.sampling == "reverse_log":
        return None
    log = hp.sampling == "log"
    with warnings.catch_warnings():  # a range ends where its last step does, for both
        warnings.filterwarnings("ignore", message=".*not divisible")
        if isinstance(hp, kinds.Int) and not (log and hp.step not in (None, 1)):
            return distributions.IntDistribution(
                hp.min_value, hp.max_value, log=log, step=1 if log else hp.step or 1
            )
        if isinstance(hp, kinds.Float) and not (log and hp.step):
            return distributions.FloatDistribution(
                hp.min_value, hp.max_value, log=log, step=hp.step or None
            )
    return None


def _holds(hp, value: Any) -> bool:
    """Whether a hyperparameter may have this value."""
    kinds = keras_tuner.engine.hyperparameters
    if isinstance(hp, kinds.Fixed):
        return value == hp.value
    if isinstance(hp, kinds.Boolean):
        return isinstance(value, bool)
    if isinstance(hp, kinds.Choice):
        return any(
            value == own and isinstance(value, bool) == isinstance(own, bool) for own in hp.values
        )
    kind = numbers.Integral if isinstance(hp, kinds.Int) else numbers.Real
    if not isinstance(value, kind) or isinstance(value, bool):
        return False
    if not hp.min_value <= value <= hp.max_value:
        return False
    return not hp.step or math.isclose(hp.prob_to_value(hp.value_to_prob(value)), value)


def _coordinate(hp, params: Mapping[str, Any]) -> float:
    """Where a value of Optuna's lies in [0, 1]."""
    if hp.name in params:
        return hp.value_to_prob(params[hp.name])
    return params.get(f"{hp.name} (quantile)", 0.5)


def _unordered(hp) -> int:
    """The number of values where they have no order, else 0."""
    kinds = keras_tuner.engine.hyperparameters
    return len(hp.values) if isinstance(hp, kinds.Choice) and not hp.ordered else 0


def _suggest(trial: optuna.Trial, name: str, kind: distributions.BaseDistribution) -> Any:
    if isinstance(kind, distributions.CategoricalDistribution):
        return trial.suggest_categorical(name, kind.choices)
    ask = trial.suggest_int
    if isinstance(kind, distributions.FloatDistribution):
        ask = trial.suggest_float
    return ask(name, kind.low, kind.high, step=kind.step, log=kind.log)
