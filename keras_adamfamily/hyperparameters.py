"""How an algorithm declares its arguments: floats that training may change, and options."""

from __future__ import annotations

from typing import Any

from keras_adamfamily.validation import (
    Interval,
    check_choice,
    check_float,
    check_integer,
    optional,
)


class Argument:
    """A named attribute, kept on the optimizer where Keras's tracking does not look."""

    def __set_name__(self, owner, name: str) -> None:
        self.name = name

    def __get__(self, optimizer, owner=None) -> Any:
        if optimizer is None:
            return self
        try:
            return vars(optimizer)[f"_{self.name}"]
        except KeyError:
            raise AttributeError(
                f"{type(optimizer).__name__} declares `{self.name}`, "
                f"but its constructor does not set it: self.{self.name} = {self.name}"
            ) from None

    def __set__(self, optimizer, value) -> None:
        vars(optimizer)[f"_{self.name}"] = value


class Hyperparameter(Argument):
    """A float of a rule, declared in the class body with the interval it must lie in.

    The rule reads it from the step's scalars (`c.beta_1`), where it is the Python float given or,
    once made tunable, a scalar tensor. Setting a tunable one takes effect without retracing; any
    other is a constant once the optimizer is built. One that only shapes the initial state cannot
    be tunable.
    """

    def __init__(self, interval: Interval, can_be_tunable: bool = True):
        self.interval = interval
        self.can_be_tunable = can_be_tunable

    def __get__(self, optimizer, owner=None):
        if optimizer is not None and self.name in optimizer._tunables:
            return optimizer._tunables[self.name]
        return super().__get__(optimizer, owner)

    def given(self, optimizer) -> float:
        """The Python float, whether it is tunable or not."""
        return super().__get__(optimizer)

    def __set__(self, optimizer, value):
        value = check_float(self.name, value, self.interval)
        if self.name in optimizer._tunables:
            optimizer._tunables[self.name].assign(value)
        else:
            check_not_built(optimizer, self.name, self.can_be_tunable)
        super().__set__(optimizer, value)


def check_not_built(optimizer, name: str, can_be_tunable: bool = True) -> None:
    """Raises `ValueError` once the optimizer is built: compiled steps have `name` as a constant."""
    if vars(optimizer).get("built"):
        raise ValueError(
            f"`{name}` is a constant once the optimizer is built."
            + f" Before that, `make_tunable({name!r})` lets it change." * can_be_tunable
        )


class Setting(Argument):
    """What is decided when the optimizer is made; `check` says what it may be."""

    def check(self, value) -> Any:
        raise NotImplementedError

    def __set__(self, optimizer, value):
        if vars(optimizer).get("built"):
            raise ValueError(
                f"`{self.name}` is fixed once the optimizer is built. "
                f"Make a new {type(optimizer).__name__} with {self.name}={value!r}."
            )
        super().__set__(optimizer, self.check(value))


class Option(Setting):
    """A switch of a rule with a fixed set of values."""

    def __init__(self, *choices):
        self.choices = choices

    def check(self, value):
        return check_choice(self.name, value, self.choices)


class Count(Setting):
    """A whole number of a rule, such as a step; `None` where it may be switched off."""

    def __init__(self, minimum: int, optional: bool = False):
        self.minimum = minimum
        self.optional = optional

    def check(self, value):
        if self.optional:
            return optional(check_integer, self.name, value, self.minimum)
        return check_integer(self.name, value, self.minimum)


class Fixed(Argument):
    """An argument of a base class that this algorithm decides: its constructor refuses it."""

    def __init__(self, value):
        self.value = value

    def __get__(self, optimizer, owner=None):
        return self if optimizer is None else self.value

    def __set__(self, optimizer, value):
        """Ignores what the base class's constructor sets."""
