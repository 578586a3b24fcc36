"""Adamax (Kingma and Ba, 2014)."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_adamfamily import backends
from keras_adamfamily.base import FamilyOptimizer, LearningRate, elementwise
from keras_adamfamily.hyperparameters import Hyperparameter, Option
from keras_adamfamily.numerics import divide, is_positive, lerp, one_minus_power
from keras_adamfamily.validation import BETA, NON_NEGATIVE


class Adamax(FamilyOptimizer):
    """Adamax: Adam with an exponentially weighted infinity norm in the denominator.

    ```
    m_t     = beta_1 * m_{t-1} + (1 - beta_1) * g_t
    u_t     = max(beta_2 * u_{t-1}, |g_t|)
    theta_t = theta_{t-1} - lr_t / (1 - beta_1^t) * m_t / u_t
    ```

    Kingma and Ba, "Adam: A Method for Stochastic Optimization" (arXiv:1412.6980), section 7.1. u
    needs no bias correction and the paper has no epsilon; where u is 0 the weight stays put.

    When to use: where single gradients are far larger than the rest: no step exceeds 1.0091 lr
    (with the default betas), while Adam's may reach 7.27 lr. One such gradient also shortens the
    steps for long: u halves in 693 steps.

    Elsewhere: Keras divides by `u_t + epsilon` with epsilon 1e-7 (`"added"`), at a default rate of
    0.001. PyTorch and Optax put `|g_t| + epsilon` with 1e-8 into the maximum, which then remembers
    it (`"inside_max"`).

    Args:
        learning_rate: lr, 0.002 by default.
        beta_1: Decay of the average gradient, a float in [0, 1), 0.9 by default.
        beta_2: Decay of the norm, a float in [0, 1), 0.999 by default.
        epsilon: Keeps the norm from zero, a float >= 0, 0 by default, as in the paper.
        epsilon_form: `"added"` (Keras) or `"inside_max"` (PyTorch, Optax); `"added"` by default.
        **kwargs: The arguments that every optimizer of the family takes, see `FamilyOptimizer`.

    Raises:
        ValueError: If an argument has a wrong type or is out of range.

    Example:

    >>> import keras_adamfamily as kaf
    >>> optimizer = kaf.Adamax(2e-3)
    >>> like_keras = kaf.Adamax(1e-3, epsilon=1e-7)
    """

    beta_1 = Hyperparameter(BETA)
    beta_2 = Hyperparameter(BETA)
    epsilon = Hyperparameter(NON_NEGATIVE)
    epsilon_form = Option("added", "inside_max")
    slots = {"momentum": 0.0, "norm": 0.0}

    def __init__(
        self,
        learning_rate: LearningRate = 0.002,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 0.0,
        epsilon_form: str = "added",
        **kwargs: Any,
    ):
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.epsilon_form = epsilon_form

    def scalars(self, c):
        return {"alpha": c.lr / one_minus_power(c.beta_1, c.t)}

    @elementwise
    def update(self, g, w, s, c):
        m = lerp(s.momentum, g, 1 - c.beta_1)
        if self.epsilon_form == "inside_max":
            u = root = backends.maximum(c.beta_2 * s.norm, ops.abs(g) + c.epsilon)
        else:
            u = backends.maximum(c.beta_2 * s.norm, ops.abs(g))
            root = u + c.epsilon
        step = c.alpha * divide(m, root, is_positive(c.epsilon))
        return step, {"momentum": m, "norm": u}
