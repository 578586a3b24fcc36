"""The weights of the best runs: Keras's own files, each replaced whole or not at all."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import h5py
import keras

from keras_adamfamily.callbacks import without_optimizer
from keras_adamfamily.tuning.trial import FINAL, SEARCH, Asked, one_line

ENDING = ".weights.h5"
RUN = "keras_adamfamily"  # the attribute of a file that says which run it is of


class Weights:
    """Keeps the weights of the best runs in a folder, which processes may share.

    A run's weights are those at which its score was measured. They are in `<name>.weights.h5`,
    without the optimizer's state; a run of the same name takes the file over if it is better.

    Args:
        folder: Where; it is made when it is needed.
        direction: `"max"` or `"min"`.
        name_of: From a run to the name of its file.
        most: How many files there may be; then the worst one goes.
        role: What is kept: `"search"` or `"final"`. Of the latter, a run of another configuration
            takes the file over, however good the runs of the old one were.
        is_current: Whether a run may be kept, asked once it is better: one of another process may
            be of a configuration that is the best no longer.
        note: Gets a line of text if a file cannot be written, which does not stop the search.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        direction: str,
        name_of: Callable[[Asked], str],
        *,
        most: int = 10**9,
        role: str = SEARCH,
        is_current: Callable[[Asked], bool] = lambda run: True,
        note: Callable[[str], None] = print,
    ):
        self.folder, self.role, self.most, self.note = Path(folder), role, most, note
        self._is_current = is_current
        self._name_of, self._sign = name_of, -1.0 if direction == "max" else 1.0
        self._kept: dict[str, dict[str, Any]] = {}

    def cost(self, run: Asked, score: float) -> tuple[float, int]:
        """What to sort by: the smaller the better, the first of equals."""
        return self._sign * score, run.number

    def wants(self, run: Asked, score: float) -> bool:
        """Whether a run that ended with this score is to be kept; it looks at no file."""
        if run.role != self.role or not self.most:
            return False
        rival = self._rival(run)
        return rival is None or self.cost(run, score) < self._cost(rival)

    def keep(self, run: Asked, score: float, model: Callable[[], keras.Model]) -> None:
        """Keeps the weights of a run if it is one of the best.

        Args:
            run: The run.
            score: Its score.
            model: Gives the model with its weights; called only if they are kept.
        """
        if not self.wants(run, score):
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(self.folder / ".lock"):
                files = self.folder.glob(f"[!.]*{ENDING}")
                runs = {file.name.removesuffix(ENDING): _run_in(file) for file in files}
                self._kept = {n: kept for n, kept in runs.items() if self._is_of_role(kept)}
                if self.wants(run, score) and self._is_current(run):
                    self._write(run, score, model())
        except Exception as error:  # whatever a model's layers raise
            self.note(f"The weights of {self._name(run)} are not kept: {one_line(error)}")

    def has(self, run: Asked) -> bool:
        """Whether there are weights of this run."""
        kept = _run_in(self._path(self._name(run)))
        return kept is not None and {name: kept.get(name) for name in vars(run)} == vars(run)

    def load(self, run: Asked, build: Callable[[], keras.Model]) -> keras.Model:
        """A model with the weights of a run, which there must be.

        Args:
            run: The run.
            build: Gives a new model.

        Raises:
            ValueError: If the weights do not fit the model.
        """
        path, model = self._path(self._name(run)), build()
        kept = _run_in(path)
        try:
            if not model.built:
                model.build_from_config(kept["build"])
                model.built = True  # Keras leaves it false for a subclass without `build`
            sizes = _sizes(model)
            if sizes != kept["sizes"]:
                raise ValueError("it has {} parameters in {} variables".format(*sizes))
            with without_optimizer(model):
                model.load_weights(path)
        except Exception as error:  # whatever a model's layers raise
            kind = "{} parameters in {} variables".format(*kept["sizes"])
            raise ValueError(
                f"`build_model` gave a model that the weights in {str(path)!r}, {kind}, do not "
                f"fit: {one_line(error).removeprefix('ValueError: ')}"
            ) from error
        return model

    def _is_of_role(self, kept: dict[str, Any] | None) -> bool:
        """Whether a file is one of these: others may keep other runs' in the same folder."""
        return kept is not None and kept.get("role") == self.role

    def _name(self, run: Asked) -> str:
        return re.sub(r"[^\w.-]", "_", self._name_of(run))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{ENDING}"

    def _cost(self, kept: dict[str, Any]) -> tuple[float, int]:
        return self._sign * kept["score"], kept["number"]

    def _rival(self, run: Asked) -> dict[str, Any] | None:
        """The kept run that this one would replace."""
        name = self._name(run)
        if name in self._kept:
            rival = self._kept[name]
            is_old = run.role == FINAL and rival["hyperparameters"] != run.hyperparameters
            return None if is_old else rival
        return max(self._kept.values(), key=self._cost) if len(self._kept) >= self.most else None

    def _write(self, run: Asked, score: float, model: keras.Model) -> None:
        name = self._name(run)
        new = self._path(f".{name}")  # one for all, under the lock: what is left of a crash goes
        content = {**vars(run), "score": score, "sizes": _sizes(model)}
        content["build"] = model.get_build_config()
        try:
            with without_optimizer(model):
                model.save_weights(new)
            with h5py.File(new, "a") as file:
                file.attrs[RUN] = json.dumps(content)
            os.replace(new, self._path(name))
        finally:
            new.unlink(missing_ok=True)
        self._kept[name] = content
        while len(self._kept) > self.most:
            worst = max(self._kept, key=lambda name: self._cost(self._kept[name]))
            self._path(worst).unlink(missing_ok=True)
            del self._kept[worst]


def _run_in(path: Path) -> dict[str, Any] | None:
    """Which run the weights in a file are of; `None` if it is no such file."""
    try:
        with h5py.File(path, "r") as file:
            return json.loads(file.attrs[RUN])
    except (OSError, KeyError, ValueError):
        return None


def _sizes(model: keras.Model) -> list[int]:
    return [model.count_params(), len(model.weights)]
