"""AMSGrad and AdamNC (Reddi, Kale and Kumar, 2018)."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_adamfamily.base import LearningRate
from keras_adamfamily.hyperparameters import Fixed, Option
from keras_adamfamily.optimizers.adam import Adam, decayed_beta_1


class AMSGrad(Adam):
    """AMSGrad: Adam whose effective rate never grows, and so converges where Adam does not.

    ```
    m_t     = beta_1t * m_{t-1} + (1 - beta_1t) * g_t
    v_t     = beta_2 * v_{t-1} + (1 - beta_2) * g_t^2
    vmax_t  = max(vmax_{t-1}, v_t)
    theta_t = theta_{t-1} - lr_t * m_t / sqrt(vmax_t)
    ```

    Reddi, Kale and Kumar, "On the Convergence of Adam and Beyond" (arXiv:1904.09237), Algorithm 2:
    no bias correction and no epsilon; where vmax is 0 the weight stays put. The projection onto a
    feasible box is the variable's `constraint`; for a box, the paper's weighted projection is plain
    clipping.

    When to use: for online and convex problems, where the regret must vanish, and where rare large
    gradients carry the information that Adam forgets between them. In deep learning there is no
    consistent gain over Adam.

    Elsewhere: the frameworks correct for bias, and it matters. In Keras and PyTorch the effective
    rate then grows at the start, which the algorithm is there to forbid; Optax's maximum remembers
    the first gradient undiscounted for ever.

    | form            | arguments                                                               |
    |-----------------|-------------------------------------------------------------------------|
    | the paper       | none                                                                    |
    | Keras           | `bias_correction=True, epsilon=1e-7, epsilon_form="hat"`                |
    | PyTorch         | `bias_correction=True, epsilon=1e-8`                                    |
    | Optax's default | `bias_correction=True, epsilon=1e-8, maximum_of="corrected"`            |

    Args:
        learning_rate: lr, 0.001 by default. The regret bound is for `InverseSqrt`.
        beta_1: Decay of the average gradient, a float in [0, 1), 0.9 by default.
        beta_2: Decay of the average square, a float in [0, 1), 0.999 by default.
        epsilon: Added to the root, a float >= 0, 0 by default, as in the paper.
        bias_correction: Whether to correct m and v as Adam does, `False` by default.
        maximum_of: The maximum of v_t, `"raw"` by default; or, with `bias_correction=True`, that of
            v_t / (1 - beta_2^t), `"corrected"`.
        epsilon_form: With bias correction, `"outer"` or `"hat"`, as in `Adam`; `"outer"` by
            default.
        beta_1_decay: lambda in `beta_1t = beta_1 * lambda^(t-1)`, a float in (0, 1], 1 by default.
        **kwargs: The arguments that every optimizer of the family takes, see `FamilyOptimizer`.

    Raises:
        ValueError: If an argument has a wrong type or is out of range.

    Example:

    >>> import keras_adamfamily as kaf
    >>> optimizer = kaf.AMSGrad(kaf.InverseSqrt(0.1), beta_1=0.9, beta_2=0.99)
    """

    amsgrad = Fixed(True)
    maximum_of = Option("raw", "corrected")

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 0.0,
        bias_correction: bool = False,
        maximum_of: str = "raw",
        **kwargs: Any,
    ):
        super().__init__(
            learning_rate, beta_1, beta_2, epsilon, True, bias_correction=bias_correction, **kwargs
        )
        self.maximum_of = maximum_of
        if self.maximum_of == "corrected" and not self.bias_correction:
            raise ValueError(
                "`maximum_of='corrected'` is the maximum of the bias-corrected v and needs "
                "`bias_correction=True`. Received: bias_correction=False"
            )

    def largest(self, v, s, c, state):
        if self.maximum_of == "raw":
            return super().largest(v, s, c, state)
        return super().largest(v / c.correction_2, s, c, state) * c.correction_2


class AdamNC(Adam):
    """AdamNC: Adam with `beta_2t = 1 - 1/t`, so that v is the plain mean of squared gradients.

    ```
    m_t     = beta_1t * m_{t-1} + (1 - beta_1t) * g_t
    v_t     = (1 - 1/t) * v_{t-1} + g_t^2 / t
    theta_t = theta_{t-1} - lr_t * m_t / (sqrt(v_t) + epsilon)
    ```

    Reddi, Kale and Kumar, "On the Convergence of Adam and Beyond" (arXiv:1904.09237), section 5.
    The paper has lr_t = alpha / sqrt(t), which is `InverseSqrt(alpha)` here; with it and beta_1 = 0
    this is Adagrad.

    When to use: for online and convex problems, where it has Adagrad's guarantee and momentum
    besides. In deep learning its memory is too long: v follows a change of the gradient's scale
    ever more slowly.

    Elsewhere: neither Keras, PyTorch nor Optax has it.

    Args:
        learning_rate: lr, 0.001 by default. The paper's is `InverseSqrt(alpha)`.
        beta_1: Decay of the average gradient, a float in [0, 1), 0.9 by default.
        epsilon: Added to the root, a float >= 0, 0 by default, as in the paper.
        beta_1_decay: lambda in `beta_1t = beta_1 * lambda^(t-1)`, a float in (0, 1], 1 by default.
        **kwargs: The arguments that every optimizer of the family takes, see `FamilyOptimizer`.

    Raises:
        ValueError: If an argument has a wrong type or is out of range.

    Example:

    >>> import keras_adamfamily as kaf
    >>> optimizer = kaf.AdamNC(kaf.InverseSqrt(0.1), beta_1=0.0)
    """

    beta_2 = Fixed(None)
    amsgrad = Fixed(False)
    bias_correction = Fixed(False)
    epsilon_form = Fixed(None)

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        epsilon: float = 0.0,
        beta_1_decay: float = 1.0,
        **kwargs: Any,
    ):
        super().__init__(
            learning_rate, beta_1, epsilon=epsilon, beta_1_decay=beta_1_decay, **kwargs
        )

    def scalars(self, c):
        return {
            "weight_1": 1 - decayed_beta_1(c),
            "weight_2": ops.reciprocal(c.t),
            "alpha": c.lr,
            "epsilon_hat": c.epsilon,
        }
