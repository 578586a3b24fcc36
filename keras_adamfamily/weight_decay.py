"""Weight decay: what is subtracted from a weight beside the optimizer's step, and how much of it.

Every form removes a fraction of the weight `theta_{t-1}` that the step starts from:

| `weight_decay=`      | subtracted in step t                            | source                |
|----------------------|-------------------------------------------------|-----------------------|
| a float `w`          | `lr_t * w * theta`                              | Keras, PyTorch, Optax |
| `Decoupled(l)`       | `eta_t * l * theta`                             | AdamW's paper         |
| `Normalized(l, ...)` | `eta_t * l * sqrt(b / (B * T)) * theta`         | AdamW's paper, app. B |
| `L2(l)`              | nothing; the gradient becomes `g_t + l * theta` | the classical penalty |

`eta_t = lr_t / lr_0` is the schedule's multiplier, so that a schedule, or a callback that lowers
the learning rate, scales the decay as in the paper, while the learning rate itself does not enter
(Loshchilov and Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101).
"""

from __future__ import annotations

import copy
import math
from typing import Any

import keras
from keras import ops

from keras_adamfamily.validation import BETA, NON_NEGATIVE, check_float, check_integer


class WeightDecay:
    """Base of the forms. `rate` is the number that a search tunes.

    A form implements `coefficient(rate, c)`: the fraction of the weight, given the rate (a float or
    a scalar tensor) and the step's scalars `c` (`c.lr`, `c.initial_learning_rate`, `c.step`,
    `c.batches`).
    """

    interval = NON_NEGATIVE
    inside_gradient = False

    def __init__(self, rate: float):
        self.rate = check_float("rate", rate, self.interval)

    def coefficient(self, rate, c):
        raise NotImplementedError

    def with_rate(self, rate: float) -> WeightDecay:
        """The same form with another rate.

        Raises:
            ValueError: If this form does not accept that rate.
        """
        other = copy.copy(self)
        other.rate = check_float("rate", rate, self.interval)
        other.check()
        return other

    def check(self) -> None:
        """Raises a `ValueError` if the arguments do not fit together."""

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate}

    @classmethod
    def from_config(cls, config: dict[str, Any]):
        return cls(**config)

    def __eq__(self, other) -> bool:
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash((type(self), self.rate))

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


@keras.saving.register_keras_serializable("keras_adamfamily")
class TimesLearningRate(WeightDecay):
    """What a plain float means, as in Keras: `theta -= lr_t * rate * theta`."""

    def coefficient(self, rate, c):
        return c.lr * rate


@keras.saving.register_keras_serializable("keras_adamfamily")
class Decoupled(WeightDecay):
    """The paper's decoupled decay: `theta -= eta_t * rate * theta`, no learning rate in it.

    eta_t is `lr_t / lr_0`. Where something raises the rate above the one that the optimizer was
    made with, give the optimizer the highest as `initial_learning_rate`, or eta_t exceeds 1.

    Args:
        rate: The paper's lambda, a float in [0, 1): the fraction removed per step at full rate.
            A Keras decay `w` at a constant learning rate `lr` equals `Decoupled(lr * w)`.

    Raises:
        ValueError: If `rate` is outside [0, 1).

    Example:

    >>> import keras_adamfamily as kaf
    >>> optimizer = kaf.AdamW(1e-3, weight_decay=kaf.Decoupled(1e-4))
    """

    interval = BETA

    def coefficient(self, rate, c):
        return c.lr / c.initial_learning_rate * rate


@keras.saving.register_keras_serializable("keras_adamfamily")
class Normalized(Decoupled):
    """Decoupled decay whose best rate does not depend on the length of training.

    `lambda = rate * sqrt(b / (B * T))`, then as in `Decoupled`. Read `rate` as the decay that
    would be right if training lasted a single batch; the paper finds 0.025 to 0.05 on CIFAR-10
    and on ImageNet32 alike.

    Args:
        rate: The paper's lambda_norm, a float >= 0.
        batch_size: b, examples per update: those of a batch, times the optimizer's
            `gradient_accumulation_steps`.
        dataset_size: B, training examples.
        epochs: T, the number of epochs; or a `CosineWarmRestarts` schedule, and then T is T_i,
            the length of the cycle that training is in (AdamWR and SGDWR).

    Raises:
        ValueError: If an argument is out of range, `epochs` is of another type, or the resulting
            lambda is not below 1.

    Example:

    >>> import keras_adamfamily as kaf
    >>> restarts = kaf.CosineWarmRestarts(1e-3, first_cycle_steps=3910)
    >>> decay = kaf.Normalized(0.025, batch_size=128, dataset_size=50_000, epochs=restarts)
    >>> optimizer = kaf.AdamW(restarts, weight_decay=decay)
    """

    interval = NON_NEGATIVE

    def __init__(self, rate: float, *, batch_size: int, dataset_size: int, epochs: Any):
        super().__init__(rate)
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self.dataset_size = check_integer("dataset_size", dataset_size, 1)
        self.epochs = epochs
        if hasattr(epochs, "cycle_steps") and not isinstance(epochs, type):
            shortest = epochs.first_cycle_steps / self._steps_per_epoch
        else:
            otherwise = " A schedule with cycles, such as `CosineWarmRestarts`, is accepted too."
            shortest = self.epochs = check_integer("epochs", epochs, 1, otherwise)
        self._shortest = shortest
        self.check()

    def check(self):
        largest = self.rate * self._factor(self._shortest)
        if largest >= 1.0:
            raise ValueError(
                "`rate * sqrt(batch_size / (dataset_size * epochs))` is the fraction of a weight "
                f"removed per step and must be below 1. Received: rate={self.rate!r}, "
                f"batch_size={self.batch_size!r}, dataset_size={self.dataset_size!r}, which give "
                f"{largest:g} for {self._shortest:g} epochs"
            )

    @property
    def _steps_per_epoch(self) -> int:
        return math.ceil(self.dataset_size / self.batch_size)

    def _factor(self, epochs: float) -> float:
        return math.sqrt(self.batch_size / (self.dataset_size * epochs))

    def coefficient(self, rate, c):
        if isinstance(self.epochs, int):
            factor = self._factor(self.epochs)
        else:
            cycle_steps = ops.cast(self.epochs.cycle_steps(c.step), c.dtype) / c.batches
            factor = self._factor(1.0 / self._steps_per_epoch) * ops.rsqrt(cycle_steps)
        return super().coefficient(rate, c) * factor

    def get_config(self):
        epochs = self.epochs
        if not isinstance(epochs, int):
            epochs = keras.saving.serialize_keras_object(epochs)
        return {
            "rate": self.rate,
            "batch_size": self.batch_size,
            "dataset_size": self.dataset_size,
            "epochs": epochs,
        }

    @classmethod
    def from_config(cls, config):
        if isinstance(config["epochs"], dict):
            epochs = keras.saving.deserialize_keras_object(config["epochs"])
            config = {**config, "epochs": epochs}
        return cls(**config)


@keras.saving.register_keras_serializable("keras_adamfamily")
class L2(WeightDecay):
    """The classical L2 penalty `rate / 2 * |theta|^2`: its gradient joins the loss's gradient.

    Under an adaptive method this is *not* weight decay: the penalty is divided by the gradient's
    scale like everything else. The term is added after clipping.

    Args:
        rate: The penalty's weight, a float >= 0.

    Raises:
        ValueError: If `rate` is negative or not a number.

    Example:

    >>> import keras_adamfamily as kaf
    >>> optimizer = kaf.Adam(1e-3, weight_decay=kaf.L2(1e-4))
    """

    inside_gradient = True

    def coefficient(self, rate, c):
        return rate


def required(value: Any, instead: str) -> Any:
    """The `weight_decay` of an algorithm that is its decay; `None` is a `ValueError`."""
    if value is None:
        raise ValueError(
            "Argument `weight_decay` must be a float. Received: weight_decay=None. `Decoupled`, "
            f"`Normalized` and `L2` are accepted too. Without decay, use `{instead}`."
        )
    return value


def as_weight_decay(value: Any) -> WeightDecay | None:
    """The form that a `weight_decay` argument means: `None`, a float or a `WeightDecay`."""
    if value is None or isinstance(value, WeightDecay):
        return value
    otherwise = " `Decoupled`, `Normalized`, `L2` and None are accepted too."
    return TimesLearningRate(check_float("weight_decay", value, NON_NEGATIVE, otherwise))
