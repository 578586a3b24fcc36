"""ADOPT (Taniguchi et al., 2024)."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_adamfamily import backends
from keras_adamfamily.base import FamilyOptimizer, Last, LearningRate, elementwise
from keras_adamfamily.hyperparameters import Hyperparameter
from keras_adamfamily.numerics import divide, is_positive, lerp
from keras_adamfamily.validation import BETA, NON_NEGATIVE


class ADOPT(FamilyOptimizer):
    """ADOPT: Adam that divides by the past alone, and so converges for every beta_2.

    ```
    v_0     = g_0^2,   m_0 = 0,   theta_0 stays
    n_t     = clip(g_t / max(sqrt(v_{t-1}), epsilon), -t^(1/4), t^(1/4))          t = 1, 2, ...
    m_t     = beta_1 * m_{t-1} + (1 - beta_1) * n_t
    theta_t = theta_{t-1} - lr_t * m_t
    v_t     = beta_2 * v_{t-1} + (1 - beta_2) * g_t^2
    ```

    Taniguchi et al., "ADOPT: Modified Adam Can Converge with Any beta_2 with the Optimal Rate"
    (arXiv:2411.02853). Adam fails where a rare large gradient is divided by a v that it has itself
    enlarged. Here v_{t-1} does not know g_t, and each gradient is divided before it is averaged.

    The first call is t = 0: it only sets v, and the rule moves nothing. Weight decay acts at every
    call, and schedules count every call, the first included.

    The clipping has a price: a gradient n times larger than usual counts in full from step n^4 on,
    and until then ADOPT can fail where Adam does.

    When to use: in Adam's place where gradients are noisy or rare and large, or where a small
    beta_2 is wanted. Rates that suit Adam suit it as well.

    Elsewhere: the authors' code and `optax.contrib.adopt` compute the same (the latter with
    `use_clipping=True`, its default). The authors' code does not decay weights at the first call.
    The form that the theorem is about has no clipping; without it an early v that is too small
    makes a huge step, and it is not offered here. Keras and PyTorch do not have ADOPT.

    Args:
        learning_rate: lr, 0.001 by default.
        beta_1: Decay of the average scaled gradient, a float in [0, 1), 0.9 by default.
        beta_2: Decay of the average square, a float in [0, 1), 0.9999 by default.
        epsilon: Floor of the denominator, a float >= 0, 1e-6 by default. With 0, weights whose v is
            still 0 stay put.
        **kwargs: The arguments that every optimizer of the family takes, see `FamilyOptimizer`.

    Raises:
        ValueError: If an argument has a wrong type or is out of range.

    Example:

    >>> import keras_adamfamily as kaf
    >>> optimizer = kaf.ADOPT(1e-3)
    """

    beta_1 = Hyperparameter(BETA)
    beta_2 = Hyperparameter(BETA)
    epsilon = Hyperparameter(NON_NEGATIVE)
    slots = {"momentum": 0.0, "velocity": 0.0}
    squares = ("velocity",)

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.9999,
        epsilon: float = 1e-6,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def scalars(self, c):
        """The bound of the clipping is 0 at the first call, so that m and theta stay there."""
        return {
            "bound": ops.sqrt(ops.sqrt(c.t - 1)),
            "weight_2": ops.where(c.t > 1, ops.convert_to_tensor(1 - c.beta_2, c.dtype), 1.0),
        }

    @elementwise
    def update(self, g, w, s, c):
        floor = ops.convert_to_tensor(c.epsilon, c.dtype)
        root = backends.maximum(ops.sqrt(s.velocity), floor)
        n = ops.clip(divide(g, root, is_positive(c.epsilon)), -c.bound, c.bound)
        m = lerp(s.momentum, n, 1 - c.beta_1)
        v = Last(lambda weight: lerp(s.velocity, g * g, weight), c.weight_2)
        return c.lr * m, {"momentum": m, "velocity": v}
