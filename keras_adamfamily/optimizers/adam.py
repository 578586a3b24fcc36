"""Adam (Kingma and Ba, 2014)."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_adamfamily import backends
from keras_adamfamily.base import FamilyOptimizer, LearningRate, elementwise
from keras_adamfamily.hyperparameters import Hyperparameter, Option
from keras_adamfamily.numerics import divide, is_positive, lerp, one_minus_power, power
from keras_adamfamily.validation import BETA, NON_NEGATIVE, Interval


class Adam(FamilyOptimizer):
    """Adam: averages of the gradient and of its square, both corrected for starting at zero.

    ```
    m_t     = beta_1 * m_{t-1} + (1 - beta_1) * g_t
    v_t     = beta_2 * v_{t-1} + (1 - beta_2) * g_t^2
    m_hat   = m_t / (1 - beta_1^t),   v_hat = v_t / (1 - beta_2^t)
    theta_t = theta_{t-1} - lr_t * m_hat / (sqrt(v_hat) + epsilon)                      "outer"
    theta_t = theta_{t-1} - lr_t * sqrt(1 - beta_2^t) / (1 - beta_1^t)
                                 * m_t / (sqrt(v_t) + epsilon)                          "hat"
    ```

    Kingma and Ba, "Adam: A Method for Stochastic Optimization" (arXiv:1412.6980), Algorithm 1. The
    `"hat"` form is the one of the remark after it: there a constant epsilon acts
    `1 / sqrt(1 - beta_2^t)` times larger, 31.6 times at the first step.

    When to use: as the first choice for a new model; with weight decay, `AdamW`. Tune the rate
    first. Epsilon is a hyperparameter as well: where gradients are as small as epsilon, steps
    shrink with them.

    Elsewhere: Keras has the `"hat"` form with epsilon 1e-7; PyTorch and Optax are as here. Keras's
    does not move bfloat16 weights, since 0.999 is 1 in that type. The authors published no code;
    early versions of the paper had `beta_1_decay` in the algorithm, and some old ports still do.

    Args:
        learning_rate: lr, 0.001 by default.
        beta_1: Decay of the average gradient, a float in [0, 1), 0.9 by default.
        beta_2: Decay of the average square, a float in [0, 1), 0.999 by default.
        epsilon: Added to the root, a float >= 0, 1e-8 by default. With 0, weights without gradient
            stay put.
        amsgrad: Whether to divide by the largest v so far, as Keras's and PyTorch's flag does,
            `False` by default. The paper's AMSGrad has no bias correction: see `AMSGrad`.
        epsilon_form: `"outer"` (Algorithm 1, PyTorch, Optax) or `"hat"` (Keras, TensorFlow);
            `"outer"` by default.
        bias_correction: `True` by default; `False` leaves both averages as they are.
        beta_1_decay: lambda of the convergence proof, where `beta_1 * lambda^(t-1)` takes beta_1's
            place in m_t; a float in (0, 1], 1 by default. The proof also has lr_t = alpha / sqrt(t)
            (`InverseSqrt`).
        **kwargs: The arguments that every optimizer of the family takes, see `FamilyOptimizer`.

    Raises:
        ValueError: If an argument has a wrong type or is out of range.

    Example:

    >>> import keras_adamfamily as kaf
    >>> optimizer = kaf.Adam(1e-3)
    >>> like_keras = kaf.Adam(1e-3, epsilon=1e-7, epsilon_form="hat")
    """

    beta_1 = Hyperparameter(BETA)
    beta_2 = Hyperparameter(BETA)
    epsilon = Hyperparameter(NON_NEGATIVE)
    beta_1_decay = Hyperparameter(Interval(0.0, 1.0, open_low=True))
    amsgrad = Option(False, True)
    epsilon_form = Option("outer", "hat")
    bias_correction = Option(True, False)

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        amsgrad: bool = False,
        epsilon_form: str = "outer",
        bias_correction: bool = True,
        beta_1_decay: float = 1.0,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.amsgrad = amsgrad
        self.epsilon_form = epsilon_form
        self.bias_correction = bias_correction
        self.beta_1_decay = beta_1_decay

    @property
    def slots(self):
        slots = {"momentum": 0.0, "velocity": 0.0}
        return {**slots, "velocity_hat": 0.0} if self.amsgrad else slots

    @property
    def squares(self):
        """The largest of many that are rounded would be too large."""
        return () if self.amsgrad else ("velocity",)

    def scalars(self, c):
        """Both forms are `alpha * m / (sqrt(v) + epsilon_hat)` with these scalars."""
        scalars = {"weight_1": 1 - decayed_beta_1(c), "weight_2": 1 - c.beta_2}
        if not self.bias_correction:
            return {**scalars, "alpha": c.lr, "epsilon_hat": c.epsilon}
        correction = one_minus_power(c.beta_2, c.t)
        root = ops.sqrt(correction)
        return {
            **scalars,
            "correction_2": correction,
            "alpha": c.lr * root / one_minus_power(c.beta_1, c.t),
            "epsilon_hat": c.epsilon * root if self.epsilon_form == "outer" else c.epsilon,
        }

    @elementwise
    def update(self, g, w, s, c):
        m = lerp(s.momentum, g, c.weight_1)
        v = lerp(s.velocity, g * g, c.weight_2)
        state, largest = {"momentum": m}, v
        if self.amsgrad:
            largest = self.largest(v, s, c, state)
        root = ops.sqrt(largest) + c.epsilon_hat
        return c.alpha * divide(m, root, is_positive(c.epsilon)), state | {"velocity": v}

    def largest(self, v, s, c, state):
        """The largest v so far, which it also puts into the new state."""
        state["velocity_hat"] = backends.maximum(s.velocity_hat, v)
        return state["velocity_hat"]


def decayed_beta_1(c):
    """beta_1 at step t, decayed as in the convergence proofs: `beta_1 * lambda^(t-1)`."""
    if isinstance(c.beta_1_decay, float) and c.beta_1_decay == 1.0:
        return c.beta_1
    return c.beta_1 * power(c.beta_1_decay, c.t - 1)
