"""Nadam (Dozat, 2016) in its five published forms, and NAdamW (AlgoPerf, 2023)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import ops

from keras_adamfamily.base import FamilyOptimizer, LearningRate, elementwise
from keras_adamfamily.hyperparameters import Fixed, Hyperparameter, Option
from keras_adamfamily.numerics import divide, is_positive, lerp, one_minus_power
from keras_adamfamily.validation import BETA, NON_NEGATIVE
from keras_adamfamily.weight_decay import WeightDecay, required


class Nadam(FamilyOptimizer):
    """Nadam: Adam with Nesterov momentum, by Dozat's momentum schedule.

    ```
    mu_t    = beta_1 * (1 - 0.5 * 0.96^(t / 250)),   P_t = mu_1 * ... * mu_t
    m_t     = mu_t * m_{t-1} + (1 - mu_t) * g_t
    v_t     = beta_2 * v_{t-1} + (1 - beta_2) * g_t^2
    m_bar   = (1 - mu_t) * g_t / (1 - P_t) + mu_{t+1} * m_t / (1 - P_t * mu_{t+1})
    theta_t = theta_{t-1} - lr_t * m_bar / (sqrt(v_t / (1 - beta_2^t)) + epsilon)
    ```

    Dozat, "Incorporating Nesterov Momentum into Adam" (ICLR workshop, 2016).

    When to use: as Adam, of which it is a refinement; expect small differences. The momentum warms
    up by itself, from 0.45 at the first step to 0.81 at the 10,000th.

    Elsewhere: what goes by this name differs in the schedule:

    | `schedule`    | difference                                              | found in         |
    |---------------|---------------------------------------------------------|------------------|
    | `"dozat"`     | none                                                    | the paper        |
    | `"const_ema"` | m_t averages with the constant beta_1                   | Keras 2, PyTorch |
    | `"keras3"`    | as const_ema, with 0.96^t: 250 times faster             | Keras 3          |
    | `"simple"`    | mu_t = beta_1                                           | Optax            |
    | `"algoperf"`  | mu_t = beta_1, and both terms divided by 1 - beta_1^t   | AlgoPerf         |

    (The paper prints v's correction with an extra factor beta_2, which no implementation has.)

    Args:
        learning_rate: lr, 0.002 by default.
        beta_1: mu, the final momentum, a float in [0, 1), 0.9 by default.
        beta_2: nu in the paper, decay of the average square, a float in [0, 1), 0.999 by default.
        epsilon: Added to the root, a float >= 0, 1e-8 by default. With 0, weights without gradient
            stay put.
        schedule: One of the names above, `"dozat"` by default.
        **kwargs: The arguments that every optimizer of the family takes, see `FamilyOptimizer`.

    Raises:
        ValueError: If an argument has a wrong type or is out of range.

    Example:

    >>> import keras_adamfamily as kaf
    >>> optimizer = kaf.Nadam(2e-3)
    >>> like_keras = kaf.Nadam(1e-3, epsilon=1e-7, schedule="keras3")
    """

    beta_1 = Hyperparameter(BETA)
    beta_2 = Hyperparameter(BETA)
    epsilon = Hyperparameter(NON_NEGATIVE)
    schedule = Option("dozat", "const_ema", "keras3", "simple", "algoperf")
    slots = {"momentum": 0.0, "velocity": 0.0}
    squares = ("velocity",)

    def __init__(
        self,
        learning_rate: LearningRate = 0.002,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        schedule: str = "dozat",
        **kwargs: Any,
    ):
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.schedule = schedule

    def scalars(self, c):
        """All forms are `m_bar = of_gradient * g + of_momentum * m`, with these coefficients."""
        scalars = {"weight_1": 1 - c.beta_1, "root": ops.sqrt(one_minus_power(c.beta_2, c.t))}
        if self.schedule in ("simple", "algoperf"):
            correction = one_minus_power(c.beta_1, c.t)
            ahead = correction
            if self.schedule == "simple":
                ahead = one_minus_power(c.beta_1, c.t + 1)
            scalars["of_gradient"] = (1 - c.beta_1) / correction
            scalars["of_momentum"] = c.beta_1 / ahead
            return scalars
        rate = math.log(0.96) * (1.0 if self.schedule == "keras3" else 0.004)
        mu = c.beta_1 * (1 - 0.5 * ops.exp(rate * c.t))
        mu_ahead = c.beta_1 * (1 - 0.5 * ops.exp(rate * (c.t + 1)))
        product = _momentum_product(c.beta_1, rate, c.t)
        if self.schedule == "dozat":
            scalars["weight_1"] = 1 - mu
        scalars["of_gradient"] = (1 - mu) / (1 - product)
        scalars["of_momentum"] = mu_ahead / (1 - product * mu_ahead)
        return scalars

    @elementwise
    def update(self, g, w, s, c):
        m = lerp(s.momentum, g, c.weight_1)
        v = lerp(s.velocity, g * g, 1 - c.beta_2)
        m_bar = c.of_gradient * g + c.of_momentum * m
        root = ops.sqrt(v) / c.root + c.epsilon
        step = c.lr * divide(m_bar, root, is_positive(c.epsilon))
        return step, {"momentum": m, "velocity": v}


def _momentum_product(beta_1, rate, t):
    """P_t, the product of `beta_1 * (1 - 0.5 * q^i)` for i = 1..t with q = exp(rate).

    log P_t = t log beta_1 - sum_k 0.5^k / k * q^k (1 - q^(k t)) / (1 - q^k), from the series of
    log(1 - x) and geometric sums. As a function of t alone it needs no state, and is right after a
    resume or when variables are updated one by one.
    """
    k = np.arange(1, 61)
    geometric = (0.5**k / k) * np.exp(rate * k) / -np.expm1(rate * k)
    series = ops.cast(geometric, t.dtype) * -ops.expm1(ops.cast(rate * k, t.dtype) * t)
    log_beta_1 = math.log(beta_1 or 1e-300) if isinstance(beta_1, float) else ops.log(beta_1)
    return ops.exp(t * log_beta_1 - ops.sum(series))


class NAdamW(Nadam):
    """NAdamW: Nesterov's look-ahead on AdamW, the baseline of the AlgoPerf benchmark.

    ```
    m_t, v_t as in Adam
    m_bar   = (beta_1 * m_t + (1 - beta_1) * g_t) / (1 - beta_1^t)
    theta_t = theta_{t-1} - lr_t * m_bar / (sqrt(v_t / (1 - beta_2^t)) + epsilon) - decay
    ```

    Dahl et al., "Benchmarking Neural Network Training Algorithms" (arXiv:2306.07179); the rule is
    Choi et al.'s (arXiv:1910.05446).

    When to use: as AdamW, at the same cost. It is a strong baseline for a comparison: the one that
    AlgoPerf's entrants had to beat.

    Elsewhere: Keras has none. PyTorch's `NAdam(decoupled_weight_decay=True)` mixes by Dozat's
    schedule. Optax's `nadamw` divides m_t by `1 - beta_1^(t+1)` instead, as
    `Nadam(schedule="simple")` does.

    Args:
        learning_rate: lr, 0.001 by default.
        weight_decay: The decay `lr_t * weight_decay * theta` of AlgoPerf, 0.004 by default; or
            `Decoupled`, `Normalized`, `L2`.
        beta_1: Decay of the average gradient, a float in [0, 1), 0.9 by default.
        beta_2: Decay of the average square, a float in [0, 1), 0.999 by default.
        epsilon: Added to the root, a float >= 0, 1e-8 by default.
        **kwargs: The arguments that every optimizer of the family takes, see `FamilyOptimizer`.

    Raises:
        ValueError: If an argument has a wrong type or is out of range.

    Example:

    >>> import keras_adamfamily as kaf
    >>> optimizer = kaf.NAdamW(1e-3, weight_decay=0.02)
    """

    schedule = Fixed("algoperf")

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        weight_decay: float | WeightDecay = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        **kwargs: Any,
    ):
        weight_decay = required(weight_decay, instead='Nadam(schedule="algoperf")')
        super().__init__(
            learning_rate,
            beta_1,
            beta_2,
            epsilon,
            weight_decay=weight_decay,
            **kwargs,
        )
