"""Adagrad (Duchi, Hazan and Singer, 2011)."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_adamfamily.base import Added, FamilyOptimizer, LearningRate, elementwise
from keras_adamfamily.hyperparameters import Hyperparameter, Option
from keras_adamfamily.numerics import divide, is_positive
from keras_adamfamily.validation import NON_NEGATIVE


class Adagrad(FamilyOptimizer):
    """Adagrad: each weight's rate falls with the root of its summed squared gradients.

    ```
    a_t     = a_{t-1} + g_t^2,   a_0 = initial_accumulator_value
    theta_t = theta_{t-1} - lr_t * g_t / (sqrt(a_t) + epsilon)        "outside"
    theta_t = theta_{t-1} - lr_t * g_t / sqrt(a_t + epsilon)          "inside"
    ```

    Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic
    Optimization", JMLR 12 (2011), with a diagonal matrix.

    When to use: for convex problems and sparse features, which is what its regret bound is about.
    The rate only falls, so in long training of deep networks it ends too early; `RMSprop` and
    `Adam` forget old gradients instead.

    Elsewhere: Keras and Optax are
    `Adagrad(initial_accumulator_value=0.1, epsilon=1e-7, epsilon_form="inside")`, where small
    gradients make tiny first steps: 0.30 lr instead of lr for a gradient of 0.1. PyTorch's is the
    same as here, with a `lr_decay` beside. Keras's default rate is 0.001.

    Args:
        learning_rate: lr, 0.01 by default.
        initial_accumulator_value: a_0, a float >= 0, 0 by default.
        epsilon: Added to the root, a float >= 0, 1e-10 by default. With 0, weights without
            gradient stay put.
        epsilon_form: `"outside"` the root (the paper, PyTorch) or `"inside"` (Keras, Optax);
            `"outside"` by default.
        **kwargs: The arguments that every optimizer of the family takes, see `FamilyOptimizer`.

    Raises:
        ValueError: If an argument has a wrong type or is out of range.

    Example:

    >>> import keras_adamfamily as kaf
    >>> optimizer = kaf.Adagrad(0.01)
    """

    initial_accumulator_value = Hyperparameter(NON_NEGATIVE, can_be_tunable=False)
    epsilon = Hyperparameter(NON_NEGATIVE)
    epsilon_form = Option("outside", "inside")
    handles_sparse_gradients = True

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        initial_accumulator_value: float = 0.0,
        epsilon: float = 1e-10,
        epsilon_form: str = "outside",
        **kwargs: Any,
    ):
        super().__init__(learning_rate, **kwargs)
        self.initial_accumulator_value = initial_accumulator_value
        self.epsilon = epsilon
        self.epsilon_form = epsilon_form

    @property
    def slots(self):
        return {"accumulator": self.initial_accumulator_value}

    @elementwise
    def update(self, g, w, s, c):
        square = ops.square(g)
        a = ops.add(s.accumulator, square)
        if self.epsilon_form == "inside":
            root = ops.sqrt(a + c.epsilon)
        else:
            root = ops.sqrt(a) + c.epsilon
        step = divide(ops.multiply(g, c.lr), root, is_positive(c.epsilon))
        return step, {"accumulator": Added(square)}
