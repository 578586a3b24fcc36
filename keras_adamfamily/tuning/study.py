"""A study is a folder: what was asked, one line per finished trial, and what follows from them.

    study.json        settings, versions, platform
    trials.jsonl      one line per finished trial, appended and flushed as it ends
    trials/           KerasTuner's own files, one project per optimizer
    leaderboard.csv   best.json   report.html      all three made from the first two

A run that is killed loses at most the trial it was in.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import keras

from keras_adamfamily import _version
from keras_adamfamily.tuning.leaderboard import LeaderboardRow, Scoring, verdict
from keras_adamfamily.tuning.space import SearchSpace
from keras_adamfamily.tuning.trial import TrialResult


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


class Study:
    """The results of a search, read from its folder.

    Args:
        directory: A folder that `tune` has written.

    Raises:
        ValueError: If the folder does not hold a study.

    Example:

    >>> from keras_adamfamily import tuning
    >>> study = tuning.Study("runs/digits")  # doctest: +SKIP
    >>> study.best_optimizer()  # doctest: +SKIP
    """

    def __init__(self, directory: str | os.PathLike):
        self.directory = Path(directory)
        try:
            stored = json.loads((self.directory / "study.json").read_text("utf-8"))
            self.settings = Settings(**stored["settings"])
            self.environments: list[dict[str, Any]] = stored["environments"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"`directory` must be the folder of a study, with a study.json in it. "
                f"Received: directory={str(directory)!r} ({type(error).__name__})"
            ) from error
        self.space = SearchSpace.from_config(self.settings.space)
        self.trials = self._read_trials()

    # Writing.

    @classmethod
    def open(cls, directory: str | os.PathLike, settings: Settings) -> Study:
        """Starts a study in a new or empty folder, or goes on with the one that is there.

        Raises:
            ValueError: If the folder holds something else, or a study with other settings.
            OSError: If the folder cannot be written.
        """
        folder = Path(directory)
        if not (folder / "study.json").exists():
            if folder.is_dir() and any(path.name != "study.json.new" for path in folder.iterdir()):
                raise ValueError(
                    "`directory` holds files that are not a study of keras_adamfamily. Choose a "
                    f"new or an empty folder. Received: directory={str(directory)!r}"
                )
            folder.mkdir(parents=True, exist_ok=True)
            _write_study(folder, settings, [environment()])
        study = cls(folder)
        study._continue_with(settings)
        return study

    def _continue_with(self, settings: Settings) -> None:
        old, new = dataclasses.asdict(self.settings), dataclasses.asdict(settings)
        grown = new["trials_per_optimizer"] > old["trials_per_optimizer"]
        if grown:
            old["trials_per_optimizer"] = new["trials_per_optimizer"]
        changed = [name for name in old if old[name] != new[name]]
        if changed:
            name = changed[0]
            raise ValueError(
                f"`directory` {str(self.directory)!r} holds a study with other settings: its "
                f"{name} is {_brief(old[name])}, now it is {_brief(new[name])}. Choose another "
                "folder, or go on with the same settings"
            )
        is_new = environment() not in self.environments
        if grown or is_new:
            self.settings = settings
            self.environments = self.environments + [environment()] * is_new
            _write_study(self.directory, self.settings, self.environments)
        _drop_torn_line(self.directory / "trials.jsonl")

    def add(self, trial: TrialResult) -> None:
        """Appends a finished trial to `trials.jsonl`; it is on the disk when this returns."""
        with open(self.directory / "trials.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(trial), allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.trials.append(trial)

    def _read_trials(self) -> list[TrialResult]:
        path = self.directory / "trials.jsonl"
        if not path.exists():
            return []
        lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline is torn
        try:
            return [TrialResult(**json.loads(line)) for line in lines]
        except (ValueError, TypeError) as error:
            raise ValueError(f"{str(path)!r} has a line that is not a trial: {error}") from error

    # What follows from the trials.

    @property
    def scoring(self) -> Scoring:
        return Scoring(self.trials, self.settings.direction)

    def find(self, role: str, optimizer: str, number: int) -> TrialResult | None:
        """A finished trial of this role and number, or `None`."""
        trials = self.scoring.of(role, optimizer)
        return next((trial for trial in trials if trial.number == number), None)

    def leaderboard(self) -> list[LeaderboardRow]:
        """One row per optimizer, best first."""
        return self.scoring.leaderboard(self.space.optimizers)

    def verdict(self) -> str:
        """In plain words: which optimizer won, or that the runs do not tell."""
        return verdict(self.leaderboard())

    def best_optimizer(self) -> keras.optimizers.Optimizer:
        """A new optimizer with the winning settings.

        Raises:
            ValueError: If no trial ended well.
        """
        return self.space.optimizer(*self._winner(), **self._length())

    def best_code(self) -> str:
        """The winning optimizer as an expression, with `import keras_adamfamily as kaf`."""
        name, values = self._winner()
        arguments = self.space.arguments(name, values, **self._length())
        shown = {key: repr(value) for key, value in arguments.items()}
        if shown.get("weight_decay", "").startswith("Normalized"):
            shown["weight_decay"] = f"kaf.{shown['weight_decay']}"
        lines = "".join(f"    {key}={value},\n" for key, value in shown.items())
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
        """
        from keras_adamfamily.tuning.report import render

        path = self.directory / "report.html" if path is None else Path(path)
        _write(path, render(self))
        return path

    def _write_leaderboard(self) -> None:
        rows = [dataclasses.asdict(row) for row in self.leaderboard()]
        tuned = dict.fromkeys(name for row in rows for name in row["hyperparameters"])
        for row in rows:
            values = row.pop("hyperparameters")
            row.update({name: values.get(name) for name in tuned})
        with open(self.directory / "leaderboard.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

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
    packages = ("keras", "keras-tuner", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    module = __import__(backend)
    return {
        "keras_adamfamily": _version.__version__,
        **versions,
        "backend": f"{backend} {getattr(module, '__version__', 'unknown')}",
        "floatx": keras.config.floatx(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
    }


def _write_study(folder: Path, settings: Settings, environments: list[dict[str, Any]]) -> None:
    content = {"settings": dataclasses.asdict(settings), "environments": environments}
    _write(folder / "study.json", json.dumps(content, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    new = path.with_name(path.name + ".new")
    new.write_text(text, "utf-8")
    os.replace(new, path)


def _drop_torn_line(path: Path) -> None:
    """Removes what a killed run left behind the last newline."""
    if path.exists():
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            path.write_bytes(whole)


def _brief(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
