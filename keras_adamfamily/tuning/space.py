"""What is searched: for each optimizer, the ranges of a few of its constructor arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras_adamfamily import registry
from keras_adamfamily.weight_decay import Normalized

DEFAULT_OPTIMIZERS = ("AdamW", "NAdamW", "SGDW")


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
        for key, value in (ranges or {}).items():
            for name, argument in self._targets("ranges", key):
                self.ranges[name][argument] = _check_range(key, value)
        for key, value in (fix or {}).items():
            if not isinstance(value, (bool, int, float, str)):
                raise ValueError(
                    f"`fix[{key!r}]` must be a number, a string or a bool. Received: {value!r}"
                )
            for name, argument in self._targets("fix", key):
                self.ranges[name].pop(argument, None)
                self.fixed[name][argument] = value
        for name in self.optimizers:
            self._check_arguments(name)

    def sample(self, hp) -> tuple[str, dict[str, float]]:
        """Registers the hyperparameters in `hp` and returns the current optimizer and its values.

        Args:
            hp: A `keras_tuner.HyperParameters`.

        Returns:
            The optimizer's name and `{argument: value}` of its searched arguments.
        """
        chosen = hp.Choice("optimizer", list(self.optimizers))
        values = {}
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
        values: Mapping[str, float],
        *,
        batch_size: int,
        dataset_size: int,
        epochs: int,
    ) -> dict[str, Any]:
        """The constructor arguments that sampled `values` stand for, the fixed ones included."""
        arguments = {}
        for argument, value in {**self.fixed[name], **values}.items():
            if argument.startswith("one_minus_"):
                argument, value = argument.removeprefix("one_minus_"), 1.0 - value
            arguments[argument] = value
        arguments["weight_decay"] = Normalized(
            arguments["weight_decay"],
            batch_size=batch_size,
            dataset_size=dataset_size,
            epochs=epochs,
        )
        return arguments

    def optimizer(self, name: str, values: Mapping[str, float], **length: int):
        """A new optimizer with sampled `values`.

        Args:
            name: One of `self.optimizers`.
            values: `{argument: value}`, as returned by `sample`.
            **length: `batch_size`, `dataset_size` and `epochs` of the training that it is for.
        """
        arguments = self.arguments(name, values, **length)
        return registry.find(name).cls(**{"name": name.lower(), **arguments})

    def only(self, name: str) -> SearchSpace:
        """The part of this space that belongs to one optimizer."""
        config = self.get_config()
        return SearchSpace.from_config({key: {name: config[key][name]} for key in config})

    def get_config(self) -> dict[str, Any]:
        ranges = {
            name: {argument: list(limits) for argument, limits in own.items()}
            for name, own in self.ranges.items()
        }
        return {"ranges": ranges, "fixed": self.fixed}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SearchSpace:
        space = cls(list(config["ranges"]))
        for name, own in config["ranges"].items():
            space.ranges[name] = {argument: tuple(limits) for argument, limits in own.items()}
            space.fixed[name] = dict(config["fixed"][name])
        return space

    def _targets(self, parameter: str, key: str) -> list[tuple[str, str]]:
        """The (optimizer, argument) pairs that a key means: "argument" or "optimizer/argument"."""
        if not isinstance(key, str):
            raise ValueError(f"`{parameter}` must have strings as keys. Received the key {key!r}")
        prefix, _, argument = key.rpartition("/")
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
        for end in (0, 1):
            values = {argument: limits[end] for argument, limits in self.ranges[name].items()}
            try:
                self.optimizer(name, values, batch_size=1, dataset_size=10**9, epochs=1)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"{name} does not accept a value of its search space: {error}"
                ) from error

    def __repr__(self) -> str:
        return f"SearchSpace(ranges={self.ranges!r}, fixed={self.fixed!r})"


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
