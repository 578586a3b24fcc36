"""RMSprop (Tieleman and Hinton, 2012), with Graves's centering and momentum."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_adamfamily.base import FamilyOptimizer, LearningRate, elementwise
from keras_adamfamily.hyperparameters import Hyperparameter, Option
from keras_adamfamily.numerics import divide, is_positive, scale
from keras_adamfamily.validation import BETA, NON_NEGATIVE, UNIT


class RMSprop(FamilyOptimizer):
    """RMSprop: the gradient divided by a running root mean square.

    ```
    v_t     = rho * v_{t-1} + (1 - rho) * g_t^2
    a_t     = rho * a_{t-1} + (1 - rho) * g_t                         centered only, else a_t = 0
    d_t     = sqrt(max(v_t - a_t^2, 0) + epsilon)                     "inside"
    d_t     = sqrt(max(v_t - a_t^2, 0)) + epsilon                     "outside"
    b_t     = momentum * b_{t-1} + lr_t * g_t / d_t
    theta_t = theta_{t-1} - b_t
    ```

    Tieleman and Hinton, lecture 6.5 of "Neural Networks for Machine Learning" (2012), which has
    neither epsilon, centering nor momentum; Graves (arXiv:1308.0850) adds them. There is no bias
    correction: the first step is `lr / sqrt(1 - rho)`, 3.16 lr by default. The variance is clamped
    at 0, below which rounding can take it.

    When to use: where published settings ask for it, as in some reinforcement learning and
    recurrent networks. For a new model `Adam` is the safer choice: it averages the gradient as
    well, and its first steps are not too large.

    Elsewhere: Keras's is the same. PyTorch has `rho=0.99, epsilon=1e-8, epsilon_form="outside"` and
    a rate of 0.01, and its momentum buffer holds gradients without the rate, as in its SGD. Optax's
    epsilon is 1e-8.

    Args:
        learning_rate: lr, 0.001 by default.
        rho: Decay of the averages, a float in [0, 1), 0.9 by default.
        momentum: Decay of the buffer b, a float in [0, 1], 0 by default, which keeps no state.
        epsilon: Added to the root, a float >= 0, 1e-7 by default.
        centered: Whether to divide by the standard deviation instead of the root mean square,
            `False` by default.
        epsilon_form: `"inside"` the root (Graves, Keras, Optax) or `"outside"` (PyTorch);
            `"inside"` by default.
        **kwargs: The arguments that every optimizer of the family takes, see `FamilyOptimizer`.

    Raises:
        ValueError: If an argument has a wrong type or is out of range.

    Example:

    >>> import keras_adamfamily as kaf
    >>> optimizer = kaf.RMSprop(1e-3, momentum=0.9, centered=True)
    """

    rho = Hyperparameter(BETA)
    momentum = Hyperparameter(UNIT)
    epsilon = Hyperparameter(NON_NEGATIVE)
    centered = Option(False, True)
    epsilon_form = Option("inside", "outside")

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        epsilon_form: str = "inside",
        **kwargs: Any,
    ):
        super().__init__(learning_rate, **kwargs)
        self.rho = rho
        self.momentum = momentum
        self.epsilon = epsilon
        self.centered = centered
        self.epsilon_form = epsilon_form

    @property
    def slots(self):
        slots = {"velocity": 0.0}
        if self.centered:
            slots["average_gradient"] = 0.0
        if self.is_tunable("momentum") or self.momentum:
            slots["momentum"] = 0.0
        return slots

    @property
    def squares(self):
        """What is left of a rounded average when another is taken off would be wrong."""
        return () if self.centered else ("velocity",)

    @property
    def handles_sparse_gradients(self):
        return "momentum" not in self.slots

    @elementwise
    def update(self, g, w, s, c):
        v = ops.add(c.rho * s.velocity, scale(ops.square(g), 1 - c.rho, c.dtype))
        state = {"velocity": v}
        variance = v
        if self.centered:
            a = ops.add(c.rho * s.average_gradient, scale(g, 1 - c.rho, c.dtype))
            state["average_gradient"] = a
            variance = ops.relu(v - a * a)
        if self.epsilon_form == "inside":
            root = ops.sqrt(variance + c.epsilon)
        else:
            root = ops.sqrt(variance) + c.epsilon
        step = divide(ops.multiply(g, c.lr), root, is_positive(c.epsilon))
        if "momentum" in self.slots:
            step = state["momentum"] = c.momentum * s.momentum + step
        return step, state
