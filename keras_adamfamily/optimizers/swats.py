"""SWATS (Keskar and Socher, 2017)."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_adamfamily import backends
from keras_adamfamily.base import FamilyOptimizer, LearningRate, elementwise
from keras_adamfamily.hyperparameters import Count, Hyperparameter, Option
from keras_adamfamily.numerics import divide, is_positive, lerp, one_minus_power
from keras_adamfamily.validation import BETA, NON_NEGATIVE

#: The state of the switch, one scalar each. `switch_step` is 0 until then, `switch_lr` is lr_s.
SWITCH = {"lam": 0.0, "sgd_rate": 0.0, "switch_lr": 1.0, "switch_step": 0.0}


class SWATS(FamilyOptimizer):
    """SWATS: Adam that switches to SGD, at a rate which it learns from Adam's steps.

    ```
    Adam  m_k, a_k as Adam's m and v
          p_k     = -lr_k * sqrt(1 - beta_2^k) / (1 - beta_1^k) * m_k / (sqrt(a_k) + epsilon)
          w_k     = w_{k-1} + p_k
          if p_k.g_k != 0 (else lam_k = lam_{k-1}):
              gamma_k = p_k.p_k / -p_k.g_k
              lam_k   = beta_2 * lam_{k-1} + (1 - beta_2) * gamma_k
              if k > 1 and |lam_k / (1 - beta_2^k) - gamma_k| < tolerance:
                  Lambda = lam_k / (1 - beta_2^k),   v_k = 0,   SGD from the next step on
    SGD   v_k     = beta_1 * v_{k-1} + g_k
          w_k     = w_{k-1} - (1 - beta_1) * Lambda * v_k
    ```

    Keskar and Socher, "Improving Generalization Performance by Switching from Adam to SGD"
    (arXiv:1712.07628), Algorithm 1. The dots are inner products over the whole model, so that all
    weights switch together. Ours are:

    - The default tolerance. The paper's is its epsilon, 1e-9, and absolute. Gamma varies by 1e-2
      from batch to batch in a small network, and float32 numbers near 0.1 lie 7e-9 apart: 1e-9 asks
      for equal bits and practically never fires. Gradients 1000 times larger, those of a summed
      loss, make gamma 1000 times smaller and want another tolerance.
    - No switch to a rate that is not positive: p lags behind g, so that gamma can be negative.
    - Schedules go on after the switch, with the rate `Lambda * lr_k / lr_s`. Lambda was measured at
      the switch's lr_s; by the first rate instead, a drop before the switch would count twice.
      Decoupled decay stays as it is.

    When to use: for image classifiers, where SGD ends better than Adam, in place of tuning SGD's
    rate. On the paper's language models Adam alone was as good. The criterion fires by chance, late
    or never (`switch_at` does not), and nothing guarantees that SGD is stable at the rate learned.

    Elsewhere: there is no official code, and Keras, PyTorch and Optax lack it. Ports to PyTorch
    have a gamma for each tensor and, once one of them qualifies, switch all to one tensor's rate;
    ensmallen's has one gamma, like this. `scope="variable"` has one for each, to switch it alone.

    Args:
        learning_rate: lr, 0.001 by default.
        beta_1: Decay of the average gradient and SGD's momentum, a float in [0, 1), 0.9 by default.
        beta_2: Decay of the average square and of lam, a float in [0, 1), 0.999 by default.
        epsilon: A float >= 0, 1e-9 by default. With 0, weights without gradient stay put.
        tolerance: A float >= 0, 1e-5 by default; 1e-9 is the paper's. With 0 it stays Adam.
        min_steps: The criterion's first step, an integer >= 2, 2 by default, as in the paper. Let a
            warmup pass first: gamma is proportional to lr, and two small ones are always close.
        switch_at: Switch at this step, an integer >= 1, whatever the criterion says, or as soon
            after it as there are a gamma and a positive lam. Lambda is then an average over the
            last 1 / (1 - beta_2) steps, and lags behind a rate that changed in them.
        scope: What switches together. `"global"` by default: the model; `"variable"`: each alone.
        **kwargs: The arguments that every optimizer of the family takes, see `FamilyOptimizer`.

    Raises:
        ValueError: If an argument has a wrong type or is out of range.

    Example:

    >>> import keras_adamfamily as kaf
    >>> optimizer = kaf.SWATS(1e-3, min_steps=1000)
    """

    beta_1 = Hyperparameter(BETA)
    beta_2 = Hyperparameter(BETA)
    epsilon = Hyperparameter(NON_NEGATIVE)
    tolerance = Hyperparameter(NON_NEGATIVE)
    min_steps = Count(2)
    switch_at = Count(1, optional=True)
    scope = Option("global", "variable")
    squares = ("velocity",)

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-9,
        tolerance: float = 1e-5,
        min_steps: int = 2,
        switch_at: int | None = None,
        scope: str = "global",
        **kwargs: Any,
    ):
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.tolerance = tolerance
        self.min_steps = min_steps
        self.switch_at = switch_at
        self.scope = scope

    @property
    def scalar_slots(self):
        return SWITCH if self.scope == "global" else {}

    @property
    def slots(self):
        """`momentum` is m, and after the switch SGD's v."""
        return {"momentum": 0.0, "velocity": 0.0} | (SWITCH if self.scope == "variable" else {})

    def slot_shape(self, name, variable):
        return () if name in SWITCH else super().slot_shape(name, variable)

    def scalars(self, c):
        correction = one_minus_power(c.beta_2, c.t)
        alpha = c.lr * ops.sqrt(correction) / one_minus_power(c.beta_1, c.t)
        return {"alpha": alpha, "correction_2": correction}

    @property
    def sums(self):
        return ("p_p", "p_g") if self.scope == "global" else ()

    @property
    def is_elementwise(self):
        return super().is_elementwise and self.scope == "global"

    @elementwise
    def update(self, g, w, s, c):
        old = c if self.scope == "global" else s
        in_sgd, one = old.switch_step > 0.0, ops.ones_like(c.t)
        kept = c.beta_1 * one
        if old is c:  # at SGD's first step m is Adam's still: at the switch nothing was known yet
            kept = ops.where(in_sgd & ops.equal(old.switch_step, c.t - 1.0), 0.0 * one, kept)
        m = kept * s.momentum + ops.where(in_sgd, one, (1 - c.beta_1) * one) * g
        v = lerp(s.velocity, g * g, 1 - c.beta_2)
        rate = (1 - c.beta_1) * old.sgd_rate * (c.lr / old.switch_lr)

        def q(m, v, epsilon):  # p = -alpha * q
            return divide(m, ops.sqrt(v) + epsilon, is_positive(c.epsilon))

        step = ops.where(in_sgd, rate * m, c.alpha * q(m, v, c.epsilon))
        q_q = backends.total(lambda *x: ops.square(q(*x)), m, v, c.epsilon)
        q_g = backends.total(lambda g, *x: q(*x) * g, g, m, v, c.epsilon)
        new = {"p_p": c.alpha * c.alpha * q_q, "p_g": -c.alpha * q_g}
        if old is s:
            new = self.observe(**new, old=s, c=c)
            m = ops.where(~in_sgd & (new["switch_step"] > 0.0), ops.zeros_like(m), m)
        return step, {"momentum": m, "velocity": v, **new}

    def conclude(self, sums, c):
        return self.observe(**sums, old=c, c=c) if sums else {}

    def observe(self, p_p, p_g, old, c):
        """The new state of the switch."""
        is_measured = ops.equal(old.switch_step, 0.0) & ops.not_equal(p_g, 0.0)
        gamma = p_p / ops.where(is_measured, -p_g, ops.ones_like(p_g))
        lam = ops.where(is_measured, lerp(old.lam, gamma, 1 - c.beta_2), old.lam)
        estimate = lam / c.correction_2
        is_time = c.t >= float(self.switch_at or self.min_steps)
        if self.switch_at is None:
            is_time &= ops.abs(estimate - gamma) < c.tolerance
        switches = is_measured & is_time & (estimate > 0.0)
        return {
            "lam": lam,
            "sgd_rate": ops.where(switches, estimate, old.sgd_rate),
            "switch_lr": ops.where(switches, c.lr, old.switch_lr),
            "switch_step": ops.where(switches, c.t, old.switch_step),
        }

    @property
    def switch_step(self) -> int | None | dict[str, int | None]:
        """The step of the switch, `None` before; by the variables' paths for their own scope."""
        return self._learned("switch_step", int)

    @property
    def sgd_learning_rate(self) -> float | None | dict[str, float | None]:
        """Lambda, SGD's learning rate at the switch; likewise."""
        return self._learned("sgd_rate", float)

    def _learned(self, name, kind):
        if not self.built:
            return None
        if self.scope == "global":
            return kind(ops.convert_to_numpy(self._scalar_state[name])) or None
        states = zip(self._trainable_variables, self._states, strict=True)
        return {v.path: kind(ops.convert_to_numpy(s[name])) or None for v, s in states if s}

    def facts(self):
        step = self.switch_step
        if isinstance(step, dict):
            return {"variables switched": f"{sum(map(bool, step.values()))} of {len(step)}"}
        return {"switch step": step, "SGD rate": self.sgd_learning_rate}
