"""A study: what was asked, what became of each trial, and what follows from that.

    study.json        settings, versions, platform, and where the trials are
    study.db          the trials, unless they are in a database elsewhere
    weights           of the best run of each optimizer
    leaderboard.csv   best.json   report.html      all three made from the first two

A run that is killed loses at most the trials that it was training.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import importlib.metadata
import inspect
import json
import math
import os
import platform
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any

import keras

from keras_adamfamily import _version, registry
from keras_adamfamily.tuning.hypermodel import OptimizerHyperModel
from keras_adamfamily.tuning.leaderboard import LeaderboardRow, Scoring, unfinished, verdict
from keras_adamfamily.tuning.space import SearchSpace
from keras_adamfamily.tuning.storage import (
    SQLITE_FILES,
    STATES,
    Storage,
    running,
    sqlite_url,
    without_password,
)
from keras_adamfamily.tuning.trial import FINAL, SEARCH, Asked, TrialResult, one_line
from keras_adamfamily.tuning.weights import Weights
from keras_adamfamily.weight_decay import Normalized


@dataclasses.dataclass(frozen=True)
class Settings:
    """What was asked. A study goes on only with the settings it was started with.

    Attributes:
        space: Config of the `SearchSpace`.
        objective: Name of what is optimized, such as `"val_accuracy"`.
        direction: `"max"` or `"min"`.
        trials_per_optimizer: The one setting that may grow when a study goes on.
        epochs: Epochs of each trial.
        batch_size: Examples per batch.
        dataset_size: Training examples.
        finalist_seeds: Fresh seeds on which each optimizer's best configuration is trained again.
        seed: The study's seed; everything random follows from it.
        build_model: Module and name of the user's function.
        parameters: Number of parameters of its model.
        data: Fingerprint of the training and validation data.
        backend: Keras backend.
        sampler: What proposes the trials.
        startup_trials: Trials of each optimizer that it proposes without knowing results.
        block: Trials of an optimizer that are proposed together.
        pruner: What gives trials up; `None` for nothing.
        training: What else changes a trial: callbacks, class weights, averaged weights, dtypes.
    """

    space: dict[str, Any]
    objective: str
    direction: str
    trials_per_optimizer: int
    epochs: int
    batch_size: int
    dataset_size: int
    finalist_seeds: int
    seed: int
    build_model: str
    parameters: int
    data: str
    backend: str
    sampler: str
    startup_trials: int
    block: int
    pruner: str | None
    training: dict[str, Any]


#: Settings that change when a study goes on with more trials.
GROWING = "trials_per_optimizer", "block", "startup_trials"


class Study:
    """The results of a search, read from its folder.

    Attributes:
        directory: The folder, a `pathlib.Path`.
        settings: What was asked: `settings.objective`, `settings.epochs` and so on.
        space: The `SearchSpace`.
        trials: A list of `TrialResult`, those of the search first; `refresh` reads them again.
        environments: Versions and machines that it ran on, a dictionary each.

    Args:
        directory: A folder that `tune` has written.
        storage: URL of the database, where the folder does not say it in full.

    Raises:
        ValueError: If the folder does not hold a study, or one that cannot be read: it is damaged,
            of another version, or its database is missing or another one.
        ConnectionError: If the server of its database does not answer.

    Example:

    >>> from keras_adamfamily import tuning
    >>> study = tuning.Study("runs/digits")  # doctest: +SKIP
    >>> study.best_optimizer()  # doctest: +SKIP
    """

    def __init__(self, directory: str | os.PathLike, storage: str | None = None):
        self.directory = Path(directory)
        stored = None
        try:
            stored = json.loads((self.directory / "study.json").read_text("utf-8"))
            self.settings = Settings(**stored["settings"])
            self.environments: list[dict[str, Any]] = stored["environments"]
            self.name = str(stored["name"])
            self.space = SearchSpace.from_config(self.settings.space)
            url = storage or stored["storage"] or _database(self.directory)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ValueError(
                f"`directory` must be the folder of a study, with a study.json in it. "
                f"Received: directory={str(directory)!r} ({type(error).__name__})"
            ) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = "" if isinstance(error, OSError) else _unreadable(stored)
            raise ValueError(
                f"study.json in {str(directory)!r} cannot be read ({one_line(error)}){reason}"
            ) from error
        # The environments are known once the database is there.
        is_new = not self.environments
        self.storage = Storage(url, self.name, self.settings.direction, is_new)
        try:
            self._check_storage()
            self.refresh()
        except BaseException:
            self.storage.close()
            raise

    def _check_storage(self) -> None:
        """Raises `ValueError` if the database is not the one that the folder's study is in."""
        if not self.environments and self.storage.public_url == _database(self.directory):
            return  # killed as it began; what was agreed on is in the database
        agreed = self.storage.settings()
        where = f"`storage` {self.storage.public_url!r}"
        if agreed is None:
            if self.environments:
                raise ValueError(
                    f"{where} does not hold the trials of the study in {str(self.directory)!r}: it "
                    f"has no study named {self.name!r}. Put the database back, or search in a new "
                    "folder"
                )
            return
        own = dataclasses.asdict(self.settings)
        if change := _change(agreed, own, [name for name in own if name not in GROWING]):
            raise ValueError(
                f"{where} holds another study named {self.name!r}, as the folder "
                f"{str(self.directory)!r} is: {change}. Choose a folder of another name, or put "
                "the study's own database back"
            )

    def refresh(self) -> None:
        """Reads the trials again: another process may have added some."""
        groups = [name for name in self.space.optimizers for name in (name, finals_of(name))]
        there = set(self.storage.names())
        try:
            self.trials = [
                TrialResult(**result)
                for name in groups
                if name in there
                for result in self.storage.results(name)
            ]
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"a trial of the study in {str(self.directory)!r} cannot be read: {error}"
            ) from error

    # Writing.

    @classmethod
    def open(
        cls, directory: str | os.PathLike, settings: Settings, storage: str | None = None
    ) -> Study:
        """Starts a study in a new or empty folder, or goes on with the one that is there.

        Args:
            directory: The folder.
            settings: What is asked.
            storage: URL of the database; by default a file in the folder.

        Raises:
            ValueError: If the folder holds something else, or a study with other settings.
            OSError: If the folder cannot be written.
        """
        folder = Path(directory)
        with contextlib.ExitStack() as undo:
            # Looked at first: another process may begin the same study at this moment.
            foreign = [path.name for path in folder.iterdir()] if folder.is_dir() else []
            if not (folder / "study.json").exists():
                if any(not name.startswith("study.json.new") for name in foreign):
                    raise ValueError(
                        "`directory` holds files that are not a study of keras_adamfamily. Choose "
                        f"a new or an empty folder. Received: directory={str(directory)!r}"
                    )
                folder.mkdir(parents=True, exist_ok=True)
                url = storage and without_password(storage)
                _write_study(folder, settings, [], folder.resolve().name, url)
                undo.callback(_withdraw, folder)
            study = cls(folder, storage)
            undo.callback(study.close)
            study._continue_with(settings)
            undo.pop_all()
        return study

    def _continue_with(self, settings: Settings) -> None:
        """Takes more trials and other environments; refuses any other change."""
        new = dataclasses.asdict(settings)
        with self.storage.lock():
            agreed = self.storage.agree(new)
            old = dict(agreed)
            if new["trials_per_optimizer"] > old["trials_per_optimizer"]:
                old["trials_per_optimizer"] = new["trials_per_optimizer"]
                new |= {name: old.get(name) for name in GROWING[1:]}
            if change := _change(old, new, new):
                raise ValueError(
                    f"`directory` {str(self.directory)!r} holds a study with other settings: "
                    f"{change}. Choose another folder, or go on with the same settings"
                )
            if new != agreed:
                self.storage.replace(new)
            self.settings = Settings(**new)
            self.space = SearchSpace.from_config(self.settings.space)
            if environment() not in self.environments:
                self.environments = [*self.environments, environment()]
            url = self.storage.public_url
            own = url == _database(self.directory)
            _write_study(
                self.directory, self.settings, self.environments, self.name, None if own else url
            )

    def add(self, trial: TrialResult) -> None:
        """Records a trial that was trained elsewhere."""
        group = trial.optimizer if trial.role == SEARCH else finals_of(trial.optimizer)
        claimed = self.storage.claim(group, 1, lambda trials, limit: [running({}, {})])
        content = dataclasses.asdict(trial)
        self.storage.finish(claimed[0], STATES[trial.status], trial.score, content)
        self.trials.append(trial)

    def close(self) -> None:
        """Lets go of the database and of the trials that this process has begun and not ended."""
        self.storage.close()

    def make_way(self, path: Path) -> None:
        """Makes the folder of a file that something of the study is to be written to.

        Raises:
            ValueError: If the study itself lies there, or another one.
        """
        own = self._lies_at(path)
        if own or _is_of_a_study(path):
            what = "the study itself" if own else "another study"
            raise ValueError(
                f"{str(path)!r} cannot be written: {what} lies there. Choose another place"
            )
        path.parent.mkdir(parents=True, exist_ok=True)

    def _lies_at(self, path: Path) -> bool:
        """Whether a file, there or not, is one that the study is read from, by whatever name."""
        if path.resolve().is_relative_to((self.directory / "weights").resolve()):
            return True
        return any(
            path.resolve() == file.resolve()
            or (path.exists() and file.exists() and path.samefile(file))
            for file in (self.directory / "study.json", *self.storage.files)
        )

    # What follows from the trials.

    @property
    def scoring(self) -> Scoring:
        return Scoring(self.trials, self.settings.direction)

    def leaderboard(self) -> list[LeaderboardRow]:
        """One row per optimizer, best first."""
        return self.scoring.leaderboard(self.space.optimizers)

    def verdict(self) -> str:
        """In plain words: which optimizer won, or that the runs do not tell."""
        rows = self.leaderboard()
        return unfinished(rows, self.settings.finalist_seeds) or verdict(rows)

    def unfinished(self) -> str | None:
        """In plain words what is missing, if not all runs on fresh seeds are there."""
        return unfinished(self.leaderboard(), self.settings.finalist_seeds)

    def best_optimizer(self) -> keras.optimizers.Optimizer:
        """A new optimizer with the winning settings.

        Raises:
            ValueError: If no trial ended well.
        """
        return self.space.optimizer(*self._winner(), **self._length())

    def best_model(
        self,
        build_model: Callable[..., keras.Model] | keras.Model,
        optimizer: str | None = None,
        *,
        loss: Any = None,
        metrics: Any = None,
    ) -> keras.Model:
        """The trained model of the best run, compiled with the optimizer that it had.

        It has the weights at which the run's score was measured; the optimizer starts anew. The run
        is the best one on fresh seeds, or of the search where there are none (`finalist_seeds=0`).
        Its score was picked for being the best and so flatters: measure the model on a test set.
        Layers that `build_model` uses and has not made are the model's own: they have its weights.

        Args:
            build_model: That of the study.
            optimizer: Name of the optimizer; by default the leader.
            loss: As it was given to `tune`, if it was.
            metrics: Likewise.

        Raises:
            ValueError: If there is no such optimizer in the study, its weights are not kept in this
                folder, or they do not fit the model.

        Example:

        >>> from keras_adamfamily import tuning
        >>> study = tuning.Study("runs/digits")  # doctest: +SKIP
        >>> model = study.best_model(tuning.TASKS["digits"].build_model)  # doctest: +SKIP
        """
        name = self._winner()[0] if optimizer is None else registry.find(optimizer).name
        if name not in self.space.optimizers:
            raise ValueError(
                f"`optimizer` must be one of the study's, {', '.join(self.space.optimizers)}. "
                f"Received: optimizer={optimizer!r}"
            )
        weights = self.weights()
        run = self.scoring.best_run(name, weights.role)
        if run is None or not weights.has(run.asked):
            made = "it has not ended" if run is None else f"{run.worker} trained it"
            raise ValueError(
                f"the weights of the best run of {name} are not in {str(weights.folder)!r} "
                f"({made}). They are there where the search went on to its end with "
                "`keep_weights=True`, on the machine that trained it"
            )
        hypermodel = OptimizerHyperModel(
            build_model, self.space, **self._length(), loss=loss, metrics=metrics
        )
        return weights.load(run.asked, lambda: hypermodel.build(run.asked.hp()))

    def weights(self, note: Callable[[str], None] = print) -> Weights:
        """The weights of the best run of each optimizer."""
        return Weights(
            self.directory / "weights",
            self.settings.direction,
            lambda run: run.optimizer,
            role=FINAL if self.settings.finalist_seeds else SEARCH,
            is_current=self._is_of_best,
            note=note,
        )

    def _is_of_best(self, run: Asked) -> bool:
        """Whether a run on a fresh seed is of what is the best trial by now, in any process."""
        if run.role != FINAL:
            return True
        self.refresh()
        best = self.scoring.best_trial(run.optimizer)
        return best is not None and best.hyperparameters == run.hyperparameters

    def best_code(self) -> str:
        """The winning optimizer as an expression.

        It is for after `import keras` and `import keras_adamfamily as kaf`.

        Raises:
            ValueError: If no trial ended well.
        """
        name, values = self._winner()
        arguments = self.space.arguments(name, values, **self._length())
        lines = "".join(f"    {key}={_as_code(value)},\n" for key, value in arguments.items())
        return f"kaf.{name}(\n{lines})"

    def _winner(self) -> tuple[str, dict[str, Any]]:
        row = self.leaderboard()[0]
        best = self.scoring.best_trial(row.optimizer)
        if best is None:
            raise ValueError(
                f"no trial of the study in {str(self.directory)!r} ended well, so there is no "
                "best optimizer; `study.trials` tells the causes"
            )
        return row.optimizer, best.optimizer_values

    def _length(self) -> dict[str, int]:
        return {
            name: getattr(self.settings, name) for name in ("batch_size", "dataset_size", "epochs")
        }

    # The files that are made from the trials.

    def write(self) -> None:
        """Writes `leaderboard.csv`, `best.json` and `report.html` into the folder."""
        self._write_leaderboard()
        self._write_best()
        self.report()

    def report(self, path: str | os.PathLike | None = None) -> Path:
        """Writes the report, one HTML page that needs no network.

        Args:
            path: Where to; by default `report.html` in the study's folder.

        Returns:
            The path written.

        Raises:
            ValueError: If the study itself lies there.
        """
        from keras_adamfamily.tuning.report import render

        path = self.directory / "report.html" if path is None else Path(path)
        self.make_way(path)
        _write(path, render(self))
        return path

    def _write_leaderboard(self) -> None:
        rows = [dataclasses.asdict(row) for row in self.leaderboard()]
        tuned = dict.fromkeys(name for row in rows for name in row["hyperparameters"])
        values = [row.pop("hyperparameters") for row in rows]
        with open(self.directory / "leaderboard.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(map(cell, [*rows[0], *columns_of(tuned, rows[0])]))
            for row, own in zip(rows, values, strict=True):
                writer.writerow(map(cell, [*row.values(), *map(own.get, tuned)]))

    def _write_best(self) -> None:
        """`best.json` is what `keras_adamfamily.get` accepts; there is none without a winner."""
        path = self.directory / "best.json"
        row = self.leaderboard()[0]
        if row.search_score is None:
            path.unlink(missing_ok=True)
            return
        content = {
            "optimizer": keras.saving.serialize_keras_object(self.best_optimizer()),
            "objective": self.settings.objective,
            "direction": self.settings.direction,
            "mean": row.mean,
            "std": row.std,
            "n": row.n,
            "search_score": row.search_score,
            "trial": self.scoring.best_trial(row.optimizer).number,
            "hyperparameters": row.hyperparameters,
            "verdict": self.verdict(),
        }
        _write(path, json.dumps(content, indent=2) + "\n")


def environment() -> dict[str, Any]:
    """The versions and the platform that a result may depend on."""
    backend = keras.config.backend()
    packages = ("keras", "keras-tuner", "optuna", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    module = __import__(backend)
    return {
        "keras_adamfamily": _version.__version__,
        **versions,
        "backend": f"{backend} {getattr(module, '__version__', 'unknown')}",
        "dtype_policy": keras.config.dtype_policy().name,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
    }


def finals_of(optimizer: str) -> str:
    """The group of an optimizer's runs on fresh seeds."""
    return f"{optimizer} on fresh seeds"


def _as_code(value: Any) -> str:
    """A number, a string, a schedule or a weight decay as an expression."""
    if not hasattr(value, "get_config"):
        return repr(value)
    kind, config = type(value), value.get_config()
    if isinstance(value, Normalized):
        config["epochs"] = value.epochs  # there it is as Keras saves it
    defaults = {name: p.default for name, p in inspect.signature(kind).parameters.items()}
    given = {k: v for k, v in config.items() if k != "name" and v != defaults[k]}
    is_ours = kind.__module__.startswith("keras_adamfamily")
    module = "kaf" if is_ours else "keras.optimizers.schedules"
    return f"{module}.{kind.__name__}({', '.join(f'{k}={_as_code(v)}' for k, v in given.items())})"


def _unreadable(stored: Any) -> str:
    """Why a study.json may not be understood; it names the version that wrote it, if that is in it.

    Args:
        stored: What was in the file, whatever that is.
    """
    reason = ": it is damaged, or was written by another version"
    try:
        version = stored["environments"][-1]["keras_adamfamily"]
    except (LookupError, TypeError):
        return reason
    return f"{reason}: by keras_adamfamily {version}, this is {_version.__version__}"


def _withdraw(folder: Path) -> None:
    """Leaves a folder empty that a study was to begin in, unless one has: then it goes on."""
    file = folder / "study.json"
    if [*folder.iterdir()] == [file] and not json.loads(file.read_text("utf-8"))["environments"]:
        file.unlink()


def _is_of_a_study(path: Path) -> bool:
    """Whether some study is read from a file that is there."""
    names = ("study.json", *(f"study.db{end}" for end in SQLITE_FILES))
    return path.name in names and path.exists() and (path.parent / "study.json").exists()


def _database(folder: Path) -> str:
    return sqlite_url(folder / "study.db")


def _write_study(
    folder: Path,
    settings: Settings,
    environments: list[dict[str, Any]],
    name: str,
    storage: str | None,
) -> None:
    content = {
        "settings": dataclasses.asdict(settings),
        "environments": environments,
        "name": name,
        "storage": storage,
    }
    _write(folder / "study.json", json.dumps(content, indent=2) + "\n")


def columns_of(hyperparameters: Iterable[str], taken: Container[str]) -> list[str]:
    """What hyperparameters are called beside what is called otherwise: a model may have any."""
    return [f"hyperparameter {name}" if name in taken else name for name in hyperparameters]


def cell(value: Any) -> Any:
    """A value as a table has it, that no spreadsheet takes for a formula."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value


def _write(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    new = path.with_name(f"{path.name}.new{os.getpid()}")
    try:
        new.write_text(text, "utf-8")
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def _change(old: dict[str, Any], new: dict[str, Any], names: Iterable[str]) -> str | None:
    """In words the first of these settings that has changed."""
    for name in names:
        if old.get(name) != new[name]:
            was, now = _differing(old.get(name), new[name])
            return f"its {name} is {_brief(was)}, now it is {_brief(now)}"
    return None


def _differing(old: Any, new: Any) -> tuple[Any, Any]:
    """Of two dictionaries what is not the same in both, however deep; else what is given."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return old, new
    pairs = {
        name: _differing(old.get(name), new.get(name))
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    }
    return tuple({name: pair[side] for name, pair in pairs.items()} for side in (0, 1))


def _brief(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
