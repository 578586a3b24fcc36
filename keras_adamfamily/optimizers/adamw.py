"""AdamW (Loshchilov and Hutter, 2017)."""

from __future__ import annotations

from typing import Any

from keras_adamfamily.base import LearningRate
from keras_adamfamily.optimizers.adam import Adam
from keras_adamfamily.weight_decay import WeightDecay, required


class AdamW(Adam):
    """Adam with decoupled weight decay.

    ```
    m_t, v_t, m_hat, v_hat as in Adam
    theta_t = theta_{t-1} - eta_t * (alpha * m_hat / (sqrt(v_hat) + epsilon) + lambda * theta_{t-1})
    ```

    Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (arXiv:1711.05101), Algorithm 2.
    There the learning rate alpha does not multiply the decay: `weight_decay=Decoupled(lambda)`.
    With `Normalized` decay and `CosineWarmRestarts` as learning rate this is AdamWR.

    When to use: wherever an adaptive method and weight decay are wanted, transformers first of all.
    Tune `Normalized` decay, whose best value the paper finds to depend little on the length of
    training.

    Elsewhere: Keras, PyTorch and Optax subtract `lr_t * weight_decay * theta`, by default with
    0.004, 0.01 and 1e-4. A plain float keeps that meaning here; Keras's epsilon is another, see
    `Adam` and the example. TensorFlow Addons subtracted `weight_decay * theta`, which the user had
    to schedule. The authors' code runs the cosine of the first cycle one batch ahead.

    Args:
        learning_rate: eta_t * alpha, 0.001 by default.
        weight_decay: The decay, 0.004 by default, as in Keras; `Decoupled`, `Normalized`, `L2` or
            a float.
        beta_1: Decay of the average gradient, a float in [0, 1), 0.9 by default.
        beta_2: Decay of the average square, a float in [0, 1), 0.999 by default.
        epsilon: Added to the root, a float >= 0, 1e-8 by default.
        **kwargs: `amsgrad`, `epsilon_form`, `bias_correction` and `beta_1_decay` as in `Adam`, and
            the arguments that every optimizer of the family takes, see `FamilyOptimizer`.

    Raises:
        ValueError: If an argument has a wrong type or is out of range.

    Example:

    >>> import keras_adamfamily as kaf
    >>> like_keras = kaf.AdamW(1e-3, weight_decay=0.004, epsilon=1e-7, epsilon_form="hat")
    >>> like_the_paper = kaf.AdamW(1e-3, weight_decay=kaf.Decoupled(1e-4))
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        weight_decay: float | WeightDecay = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        **kwargs: Any,
    ):
        weight_decay = required(weight_decay, instead="Adam")
        super().__init__(
            learning_rate, beta_1, beta_2, epsilon, weight_decay=weight_decay, **kwargs
        )
