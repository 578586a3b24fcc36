"""Adadelta (Zeiler, 2012)."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_adamfamily.base import FamilyOptimizer, Last, LearningRate, elementwise
from keras_adamfamily.hyperparameters import Hyperparameter
from keras_adamfamily.numerics import divide, is_positive, scale
from keras_adamfamily.validation import BETA, NON_NEGATIVE


class Adadelta(FamilyOptimizer):
    """Adadelta: steps in the units of the weights, without a learning rate to tune.

    ```
    E_t     = rho * E_{t-1} + (1 - rho) * g_t^2
    dx_t    = sqrt(D_{t-1} + epsilon) / sqrt(E_t + epsilon) * g_t
    D_t     = rho * D_{t-1} + (1 - rho) * dx_t^2
    theta_t = theta_{t-1} - lr_t * dx_t
    ```

    Zeiler, "ADADELTA: An Adaptive Learning Rate Method" (arXiv:1212.5701), where lr = 1. Epsilon
    drives the start: the first step is about `sqrt(epsilon / (1 - rho))`, so with epsilon 0 nothing
    ever moves.

    When to use: where no learning rate can be tuned at all. It starts slowly, with steps of 0.004
    by default, whatever the model.

    Elsewhere: Keras's default rate of 0.001 makes it a thousand times slower than the paper's; its
    epsilon is 1e-7. PyTorch and Optax have `rho=0.9`.

    Args:
        learning_rate: lr, 1.0 by default.
        rho: Decay of both averages, a float in [0, 1), 0.95 by default.
        epsilon: Added inside both roots, a float >= 0, 1e-6 by default.
        **kwargs: The arguments that every optimizer of the family takes, see `FamilyOptimizer`.

    Raises:
        ValueError: If an argument has a wrong type or is out of range.

    Example:

    >>> import keras_adamfamily as kaf
    >>> optimizer = kaf.Adadelta()
    """

    rho = Hyperparameter(BETA)
    epsilon = Hyperparameter(NON_NEGATIVE)
    slots = {"accumulated_gradient": 0.0, "accumulated_step": 0.0}
    squares = ("accumulated_gradient", "accumulated_step")
    handles_sparse_gradients = True

    def __init__(
        self,
        learning_rate: LearningRate = 1.0,
        rho: float = 0.95,
        epsilon: float = 1e-6,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, **kwargs)
        self.rho = rho
        self.epsilon = epsilon

    @elementwise
    def update(self, g, w, s, c):
        gradients = ops.add(
            c.rho * s.accumulated_gradient, scale(ops.square(g), 1 - c.rho, c.dtype)
        )
        inputs = g, s.accumulated_step, gradients
        step = self.step(*inputs, c)

        def averaged(weight, *inputs):
            square = ops.square(step if inputs[0] is g else self.step(*inputs, c))
            return ops.add(c.rho * inputs[1], scale(square, weight, c.dtype))

        steps = Last(averaged, 1 - c.rho, *inputs)
        state = {"accumulated_step": steps, "accumulated_gradient": gradients}
        return ops.multiply(step, c.lr), state

    def step(self, g, steps, gradients, c):
        rms_step = ops.sqrt(steps + c.epsilon)
        rms_gradient = ops.sqrt(gradients + c.epsilon)
        return divide(ops.multiply(g, rms_step), rms_gradient, is_positive(c.epsilon))
