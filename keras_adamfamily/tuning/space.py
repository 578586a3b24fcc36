"""What is searched: for each optimizer, the ranges of a few of its constructor arguments."""

from __future__ import annotations

import numbers
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_adamfamily import registry
from keras_adamfamily.schedules import CosineWarmRestarts
from keras_adamfamily.validation import check_integer
from keras_adamfamily.weight_decay import Normalized

DEFAULT_OPTIMIZERS = ("AdamW", "NAdamW", "SGDW")
SHARED = ("batch_size", "schedule")  # what all optimizers of a space have in common
COMPLEMENT = "one_minus_"
WARM_RESTARTS = re.compile(r"warm_restarts(?:\(T_0=(\d+), ?T_mult=(\d+(?:\.\d+)?)\))?")


class SearchSpace:
    """The learning rate and the normalized weight decay of one or more optimizers.

    The ranges come from the registry and are sampled uniformly in the logarithm. Each optimizer has
    hyperparameters of its own, named `"AdamW/learning_rate"`, `"AdamW/weight_decay"`. The weight
    decay that is searched is the rate of `Normalized`, whose best value depends little on the
    batch size, the number of examples and the number of epochs.

    Args:
        optimizers: Names that `keras_adamfamily.get` knows, in any case.
        ranges: More or other ranges, `{argument: (low, high)}` with `0 < low < high`. The key
            `"beta_2"` means every optimizer, `"AdamW/beta_2"` only that one. The key
            `"one_minus_beta_2"` searches `1 - beta_2`, which is what varies by orders of magnitude.
        fix: Arguments that are not searched but set, `{argument: value}`, with the same keys.
            `{"weight_decay": 0}` searches without weight decay.
        schedule: What the learning rate does within a trial; the searched rate is its peak.
            `"constant"`, by default; `"cosine"`, half a cosine to 0 at the end;
            `"warm_restarts(T_0=10, T_mult=2)"`, cosine annealing whose first cycle takes T_0
            epochs and each further one T_mult times as long as the one before;
            `"warm_restarts"`, three cycles, each twice as long, that end with the training. A list
            of these is searched.
        batch_size: A list of batch sizes to search; by default the one of the search.
        starting_points: Known good settings, which are tried first: `{argument: value}` each,
            with the keys of `ranges`, `"optimizer"` for the one that it is meant for (by default
            each), and those of `build_model(hp)`. What one leaves out is searched.

    Raises:
        ValueError: If a name or a range is not valid, or an optimizer does not take an argument.

    Example:

    >>> from keras_adamfamily import tuning
    >>> space = tuning.SearchSpace(["adamw"], ranges={"learning_rate": (1e-4, 1e-2)})
    >>> space.ranges["AdamW"]["learning_rate"]
    (0.0001, 0.01)
    """

    def __init__(
        self,
        optimizers: Sequence[str] = DEFAULT_OPTIMIZERS,
        *,
        ranges: Mapping[str, tuple[float, float]] | None = None,
        fix: Mapping[str, Any] | None = None,
        schedule: str | Sequence[str] = "constant",
        batch_size: Sequence[int] = (),
        starting_points: Sequence[Mapping[str, Any]] = (),
    ):
        if isinstance(optimizers, str) or not optimizers:
            raise ValueError(
                "`optimizers` must be a non-empty list of names, such as ['AdamW', 'SGDW']. "
                f"Received: optimizers={optimizers!r}"
            )
        records = [registry.find(name) for name in optimizers]
        self.optimizers = tuple(record.name for record in records)
        if len(set(self.optimizers)) < len(self.optimizers):
            raise ValueError(
                f"`optimizers` must not repeat a name. Received: optimizers={list(optimizers)!r}"
            )
        self.ranges = {
            record.name: {
                "learning_rate": tuple(record.learning_rate),
                "weight_decay": tuple(record.weight_decay),
            }
            for record in records
        }
        self.fixed: dict[str, dict[str, Any]] = {name: {} for name in self.optimizers}
        fix, asked = dict(fix or {}), set()
        batch_size = _for_all(fix, "batch_size", batch_size)
        schedule = _for_all(fix, "schedule", schedule)
        for key, value in (ranges or {}).items():
            for name, argument in self._targets("ranges", key):
                self.ranges[name][argument] = _check_range(key, value)
                asked.add((name, argument))
        for key, value in fix.items():
            if not isinstance(value, (bool, int, float, str)):
                raise ValueError(
                    f"`fix[{key!r}]` must be a number, a string or a bool. Received: {value!r}"
                )
            for name, argument in self._targets("fix", key):
                if (name, argument) in asked:
                    raise ValueError(
                        f"{argument!r} of {name} is in `ranges` and in `fix`: leave out one"
                    )
                self.ranges[name].pop(argument, None)
                self.fixed[name][argument] = value
        self.schedules = tuple(_checked_schedule(given) for given in schedule)
        if not self.schedules:
            raise ValueError("`schedule` must be a schedule or a non-empty list of them")
        self.batch_sizes = tuple(check_integer("batch_size", size, 1) for size in batch_size)
        for name in self.optimizers:
            self._check_arguments(name)
        self.starting_points = [self._checked_point(point) for point in starting_points]

    @property
    def names(self) -> set[str]:
        """What a hyperparameter of the model cannot be called, if it is to be searched."""
        own = [*self.ranges.values(), *self.fixed.values()]
        return {"optimizer", *SHARED, *(argument for arguments in own for argument in arguments)}

    def sample(self, hp) -> tuple[str, dict[str, Any]]:
        """Registers the hyperparameters in `hp` and returns the current optimizer and its values.

        Args:
            hp: A `keras_tuner.HyperParameters`.

        Returns:
            The optimizer's name and `{argument: value}` of its searched arguments, `"batch_size"`
            and `"schedule"` among them where they are searched.
        """
        chosen = hp.Choice("optimizer", list(self.optimizers))
        values = {}
        if len(self.batch_sizes) > 1:
            values["batch_size"] = hp.Choice("batch_size", list(self.batch_sizes))
        if len(self.schedules) > 1:
            values["schedule"] = hp.Choice("schedule", list(self.schedules))
        for name in self.optimizers:
            with hp.conditional_scope("optimizer", [name]):
                for argument, (low, high) in self.ranges[name].items():
                    value = hp.Float(f"{name}/{argument}", low, high, sampling="log")
                    if name == chosen:
                        values[argument] = value
        return chosen, values

    def arguments(
        self,
        name: str,
        values: Mapping[str, Any],
        *,
        batch_size: int,
        dataset_size: int,
        epochs: int,
    ) -> dict[str, Any]:
        """The constructor arguments that sampled `values` stand for, the fixed ones included."""
        arguments = {}
        for argument, value in {**self.fixed[name], **values}.items():
            is_complement = argument.startswith(COMPLEMENT)
            arguments[_argument(argument)] = 1.0 - value if is_complement else value
        batch_size = self.batch_size(values, batch_size)
        arguments.pop("batch_size", None)
        schedule = arguments.pop("schedule", self.schedules[0])
        steps = -(-dataset_size // batch_size)  # of an epoch, the last one may be smaller
        rate = _scheduled(arguments["learning_rate"], schedule, steps, epochs)
        arguments["learning_rate"] = rate
        arguments["weight_decay"] = Normalized(
            arguments["weight_decay"],
            batch_size=min(batch_size, dataset_size),  # a step takes no more
            dataset_size=dataset_size,
            epochs=rate if isinstance(rate, CosineWarmRestarts) else epochs,
        )
        return arguments

    def batch_size(self, values: Mapping[str, Any], default: int) -> int:
        """The batch size of a trial."""
        return int(values.get("batch_size", *(self.batch_sizes[:1] or [default])))

    def traced(self, name: str) -> dict[str, str]:
        """The searched floats of an optimizer: its name for each, by the name in the space."""
        return {argument: _argument(argument) for argument in self.ranges[name]}

    def optimizer(self, name: str, values: Mapping[str, Any], **length: int):
        """A new optimizer with sampled `values`.

        Args:
            name: One of `self.optimizers`.
            values: `{argument: value}`, as returned by `sample`.
            **length: `batch_size`, `dataset_size` and `epochs` of the training that it is for.
        """
        arguments = self.arguments(name, values, **length)
        return registry.find(name).cls(**{"name": name.lower(), **arguments})

    def get_config(self) -> dict[str, Any]:
        ranges = {
            name: {argument: list(limits) for argument, limits in own.items()}
            for name, own in self.ranges.items()
        }
        return {
            "ranges": ranges,
            "fixed": self.fixed,
            "schedules": list(self.schedules),
            "batch_sizes": list(self.batch_sizes),
            "starting_points": self.starting_points,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SearchSpace:
        space = cls(
            list(config["ranges"]),
            schedule=config["schedules"],
            batch_size=config["batch_sizes"],
        )
        for name, own in config["ranges"].items():
            space.ranges[name] = {argument: tuple(limits) for argument, limits in own.items()}
            space.fixed[name] = dict(config["fixed"][name])
        space.starting_points = [dict(point) for point in config["starting_points"]]
        return space

    def _targets(self, parameter: str, key: str) -> list[tuple[str, str]]:
        """The (optimizer, argument) pairs that a key means: "argument" or "optimizer/argument"."""
        if not isinstance(key, str):
            raise ValueError(f"`{parameter}` must have strings as keys. Received the key {key!r}")
        prefix, _, argument = key.rpartition("/")
        if argument in SHARED:
            raise ValueError(
                f"`{parameter}` cannot have the key {key!r}: all optimizers share it. Pass "
                f"`{argument}` to the SearchSpace, a list to search it"
            )
        if not prefix:
            return [(name, argument) for name in self.optimizers]
        name = registry.find(prefix).name
        if name not in self.optimizers:
            raise ValueError(
                f"`{parameter}` has the key {key!r}, but {name} is not searched. "
                f"The optimizers of this space: {', '.join(self.optimizers)}"
            )
        return [(name, argument)]

    def _check_arguments(self, name: str) -> None:
        """Builds the optimizer at both ends of its ranges, so that errors come before training."""
        named = list(map(_argument, [*self.ranges[name], *self.fixed[name]]))
        for argument in named:
            if named.count(argument) > 1:
                raise ValueError(
                    f"{argument!r} of {name} is there twice, also as '{COMPLEMENT}{argument}': "
                    "leave out one in `ranges` or `fix`"
                )
        for end in (0, 1):
            values = {argument: limits[end] for argument, limits in self.ranges[name].items()}
            try:
                optimizer = self.optimizer(name, values, batch_size=1, dataset_size=10**9, epochs=1)
                if keras.config.backend() == "jax":  # where trials share a program
                    optimizer.make_tunable(*{*self.traced(name).values()} - {"learning_rate"})
            except (TypeError, ValueError) as error:
                given = ", ".join(f"{k}={v!r}" for k, v in {**values, **self.fixed[name]}.items())
                raise ValueError(
                    f"{name} does not accept a value of its search space, of {given}: {error}"
                ) from error

    def _checked_point(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """A starting point whose optimizer and values are in this space."""
        if not isinstance(point, Mapping):
            raise ValueError(
                "`starting_points` must be a list of dictionaries {argument: value}. "
                f"Received the point {point!r}"
            )
        point = {k: v.item() if isinstance(v, np.generic) else v for k, v in point.items()}
        names = self.optimizers
        if "optimizer" in point:
            point["optimizer"] = registry.find(point["optimizer"]).name
            names = (point["optimizer"],)
        if names[0] not in self.optimizers:
            raise ValueError(
                f"`starting_points` has one of {names[0]}, which is not searched. "
                f"The optimizers of this space: {', '.join(self.optimizers)}"
            )
        outside = []
        for key, value in point.items():
            for name in names:
                limits = self.ranges[name].get(key.removeprefix(f"{name}/"))
                if limits is None:
                    continue
                if not isinstance(value, numbers.Real) or not limits[0] <= value <= limits[1]:
                    outside.append(
                        f"{key} {value!r} of {name}, searched from {limits[0]:g} to {limits[1]:g}"
                    )
        choices = {"batch_size": self.batch_sizes, "schedule": self.schedules}
        for key, among in choices.items():
            if key in point and len(among) > 1 and point[key] not in among:
                outside.append(f"{key} {point[key]!r}, searched among {list(among)}")
        if outside:
            raise ValueError(
                "`starting_points` must lie in the space: widen `ranges`, or leave the value out. "
                f"Received: {outside[0]}"
            )
        return point

    def __repr__(self) -> str:
        config = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"SearchSpace({config})"


def _for_all(fix: dict[str, Any], name: str, given: Any) -> list[Any]:
    """What all optimizers share, as a list; where it is in `fix`, it is taken out of there."""
    is_list = isinstance(given, Iterable) and not isinstance(given, str)
    given = list(given) if is_list else [given]
    if name not in fix:
        return given
    if given not in ([], ["constant"]):
        raise ValueError(f"{name!r} is in `fix` and an argument too: leave out one")
    return [fix.pop(name)]


def _argument(searched: str) -> str:
    """The constructor argument that a name in a space stands for."""
    return searched.removeprefix(COMPLEMENT)


def _checked_schedule(schedule: Any) -> str:
    if schedule in ("constant", "cosine"):
        return schedule
    match = WARM_RESTARTS.fullmatch(schedule) if isinstance(schedule, str) else None
    if match is None or (match[1] and (int(match[1]) < 1 or float(match[2]) < 1)):
        raise ValueError(
            "`schedule` must be 'constant', 'cosine', 'warm_restarts' or "
            "'warm_restarts(T_0=10, T_mult=2)', with T_0 >= 1 epochs and T_mult >= 1. "
            f"Received: schedule={schedule!r}"
        )
    return schedule


def _scheduled(peak: float, schedule: str, steps: int, epochs: int) -> Any:
    """The learning rate of a training of `epochs` epochs of `steps` steps each."""
    if schedule == "constant":
        return peak
    if schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(peak, decay_steps=steps * epochs)
    length, growth = WARM_RESTARTS.fullmatch(schedule).groups()
    first = steps * int(length) if length else max(1, round(steps * epochs / 7))  # 1 + 2 + 4
    return CosineWarmRestarts(peak, first, cycle_multiplier=float(growth or 2))


def _check_range(key: str, value: Any) -> tuple[float, float]:
    try:
        low, high = (float(end) for end in value)
    except (TypeError, ValueError):
        low = high = float("nan")
    if not 0.0 < low < high < float("inf"):
        raise ValueError(
            f"`ranges[{key!r}]` must be (low, high) with 0 < low < high. Received: {value!r}"
        )
    return low, high
