"""How an algorithm declares its arguments: floats that training may change, and options."""

from __future__ import annotations

from typing import Any

from keras_adamfamily.validation import Interval, check_choice, check_float


class _Argument:
    """A named attribute, kept on the optimizer where Keras's tracking does not look."""

    def __set_name__(self, owner, name: str) -> None:
        self.name = name

    def __get__(self, optimizer, owner=None) -> Any:
        if optimizer is None:
            return self
        try:
            return vars(optimizer)[f"_{self.name}"]
        except KeyError:
            raise AttributeError(self.name) from None

    def __set__(self, optimizer, value) -> None:
        vars(optimizer)[f"_{self.name}"] = value


class Hyperparameter(_Argument):
    """A float of a rule, declared in the class body with the interval it must lie in.

    The rule reads it from the step's scalars (`c.beta_1`), where it is the Python float given or,
    once made tunable, a scalar tensor. Users read and set it on the optimizer; setting a tunable
    one after `build` takes effect without retracing.
    """

    def __init__(self, interval: Interval):
        self.interval = interval

    def __get__(self, optimizer, owner=None):
        if optimizer is not None and self.name in vars(optimizer).get("_tunables", {}):
            return optimizer._tunables[self.name]
        return super().__get__(optimizer, owner)

    def __set__(self, optimizer, value):
        value = check_float(self.name, value, self.interval)
        super().__set__(optimizer, value)
        if self.name in vars(optimizer).get("_tunables", {}):
            optimizer._tunables[self.name].assign(value)


class Option(_Argument):
    """A switch of a rule with a fixed set of values, decided when the optimizer is made."""

    def __init__(self, *choices):
        self.choices = choices

    def __set__(self, optimizer, value):
        if vars(optimizer).get("built"):
            raise ValueError(
                f"`{self.name}` is fixed once the optimizer is built. "
                f"Make a new {type(optimizer).__name__} with {self.name}={value!r}."
            )
        super().__set__(optimizer, check_choice(self.name, value, self.choices))
