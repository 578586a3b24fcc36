"""What keeps logits in bounds where the last layer's weight vectors have a fixed length.

Both are from ND-Adam's paper (arXiv:1709.04546), where lengths 1 would leave the scale of the
logits to chance, and help other optimizers as well.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_adamfamily.validation import NON_NEGATIVE, POSITIVE, check_float


@keras.saving.register_keras_serializable("keras_adamfamily")
class LogitRegularizer(keras.regularizers.Regularizer):
    """The regularized softmax: a penalty on the squared logits of each example.

    ```
    loss += strength / 2 * mean over examples of sum over classes of logit^2
    ```

    It is the `activity_regularizer` of the layer that gives the logits, which must have no
    activation; the softmax belongs to the loss (`from_logits=True`). Keras divides what an activity
    regularizer returns by the batch size, so this returns the sum over the batch. Of further axes,
    such as positions in a sequence, the mean is taken too. For logits of shape (batch, classes) it
    is `keras.regularizers.L2(strength / 2)`, but in float32 also in mixed precision.

    Args:
        strength: lambda_C, a float >= 0, 0.001 by default.

    Raises:
        ValueError: If `strength` is negative or not a number.

    Example:

    >>> import keras
    >>> import keras_adamfamily as kaf
    >>> head = keras.layers.Dense(10, activity_regularizer=kaf.LogitRegularizer(1e-3))
    """

    def __init__(self, strength: float = 1e-3):
        self.strength = check_float("strength", strength, NON_NEGATIVE)

    def __call__(self, x):
        wide = (
            x if keras.backend.standardize_dtype(x.dtype) == "float64" else ops.cast(x, "float32")
        )
        batch = ops.cast(ops.shape(x)[0], wide.dtype)
        return 0.5 * self.strength * batch * ops.mean(ops.sum(wide * wide, axis=-1))

    def get_config(self) -> dict[str, Any]:
        return {"strength": self.strength}


@keras.saving.register_keras_serializable("keras_adamfamily")
class BatchNormalizedLogits(keras.layers.BatchNormalization):
    """BN-softmax: batch-normalized logits with one scale, fixed and the same for all classes.

    ```
    output_k = gamma * (logit_k - mean_k) / sqrt(variance_k + epsilon) + bias_k
    ```

    The lengths of the last kernel's vectors then matter as little as those before. Gamma takes
    their place: large ones give confident predictions, small ones regularize. The paper has 2.5 on
    CIFAR-10, 1 on CIFAR-100 and 3.5 in a deeper network; the bias is that of its authors' code.

    Args:
        gamma: gamma_C, a float > 0, 1 by default.
        **kwargs: The arguments of `keras.layers.BatchNormalization`, but for `center` and `scale`.

    Raises:
        ValueError: If `gamma` is not a positive number.

    Example:

    >>> import keras
    >>> import keras_adamfamily as kaf
    >>> layers = [keras.layers.Dense(10, use_bias=False), kaf.BatchNormalizedLogits(2.5)]
    """

    def __init__(self, gamma: float = 1.0, **kwargs: Any):
        self._fixed_gamma = check_float("gamma", gamma, POSITIVE)
        super().__init__(center=False, scale=False, **kwargs)

    def build(self, input_shape):
        super().build(input_shape)
        self.bias = self.add_weight(
            shape=(input_shape[self.axis],), initializer=self.beta_initializer, name="bias"
        )

    def call(self, inputs, training=None, mask=None):
        normalized = super().call(inputs, training=training, mask=mask)
        shape = [1] * len(inputs.shape)
        shape[self.axis] = -1
        bias = ops.reshape(ops.cast(self.bias, normalized.dtype), shape)
        return self._fixed_gamma * normalized + bias

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["center"], config["scale"]
        return {**config, "gamma": self._fixed_gamma}
