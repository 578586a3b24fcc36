"""ND-Adam (Zhang, Ma, Li and Wu, 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_adamfamily import backends
from keras_adamfamily.base import LearningRate, _path, vectorwise
from keras_adamfamily.hyperparameters import Fixed, Hyperparameter, Option
from keras_adamfamily.numerics import divide, is_positive, lerp
from keras_adamfamily.optimizers.adam import Adam
from keras_adamfamily.validation import POSITIVE
from keras_adamfamily.vectors import VectorAxes, resolve


class NDAdam(Adam):
    """ND-Adam: Adam that turns each unit's weight vector by a set angle, and never stretches it.

    For the input weight vector w of each unit, `||w_0|| = 1`:

    ```
    g_t     = gbar_t - (gbar_t . w_{t-1}) w_{t-1}
    m_t     = beta_1 * m_{t-1} + (1 - beta_1) * g_t
    v_t     = beta_2 * v_{t-1} + (1 - beta_2) * ||g_t||^2            one number for each vector
    m_hat   = m_t / (1 - beta_1^t),   v_hat = v_t / (1 - beta_2^t)
    wbar_t  = w_{t-1} - alpha_v * m_hat / (sqrt(v_hat) + epsilon)
    w_t     = wbar_t / ||wbar_t||
    ```

    and Adam with the rate alpha_s for everything else. Zhang, Ma, Li and Wu, "Normalized
    Direction-preserving Adam" (arXiv:1709.04546), Algorithm 1, with alpha_v = 0.05 and alpha_s =
    0.001. Here `learning_rate` is alpha_s, so that Adam's rates and schedules carry over, and
    alpha_v is `vector_multiplier` times that: one rate, schedule or callback moves both. Since w
    has length 1, alpha_v is about the angle of a step in radians, whatever the layer's size.

    Vectors take no weight decay, whatever `weight_decay` says: it would change a length that is
    fixed. The moving averages of `use_ema` have length 1 as well once they replace the weights. A
    vector that is 0 stays 0 until it has a gradient. In bfloat16, lengths are 1 up to rounding.

    When to use: in networks with `BatchNormalization` after each kernel, where only the direction
    of a weight vector matters, and SGD is better than Adam. Elsewhere vectors of length 1 limit
    what the network can compute, above all its logits: `weight_vectors` names those layers. Take
    `BatchNormalizedLogits` or `LogitRegularizer` after the last, or exclude it.

    Elsewhere: the authors' two files disagree. TensorFlow's has alpha_v = 50 alpha_s and epsilon as
    above; PyTorch's takes one rate for both, 0.04 in its script, adds L2 to the gradient, and has
    Adam's `"hat"` form of epsilon. Neither normalizes before the first step, whose projection is
    then wrong unless the initializer's vectors have length 1: `normalize_on_build=False`. Keras,
    PyTorch and Optax have no ND-Adam; AdamP removes the radial part of Adam's step instead.

    Args:
        learning_rate: lr = alpha_s, 0.001 by default.
        beta_1: Decay of the average gradient, a float in [0, 1), 0.9 by default.
        beta_2: Decay of the average square, a float in [0, 1), 0.999 by default.
        epsilon: A float >= 0, 1e-8 by default. With 0, weights without gradient stay put.
        vector_multiplier: alpha_v / alpha_s, a float > 0, 50 by default.
        vectors: Which variables hold vectors, and along which axes. By default the names that Keras
            gives to kernels decide (`dense/kernel`, `conv2d_3/kernel`), and those that cannot be
            sure are warned about. `weight_vectors(model)` is exact. Else a mapping from paths, or
            regular expressions searched for in paths, to an axis, a list of axes, or `None` for
            plain Adam; later entries win, and names decide what none of them names:
            `{"head/kernel": None}`. Saved as what it came to.
        normalize_on_build: Whether building the optimizer sets all vectors to length 1, as in the
            paper, and every step takes them so should they have been replaced since; `True` by
            default.
        **kwargs: `epsilon_form` and `beta_1_decay`, see `Adam`, and the arguments that every
            optimizer of the family takes, see `FamilyOptimizer`.

    Raises:
        ValueError: If an argument has a wrong type or is out of range, or `vectors` gives axes that
            a variable does not have.

    Example:

    >>> import keras_adamfamily as kaf
    >>> import keras
    >>> layers = [keras.layers.Dense(8, use_bias=False), keras.layers.BatchNormalization()]
    >>> model = keras.Sequential([keras.Input((4,)), *layers])
    >>> model.compile(kaf.NDAdam(1e-3, vectors=kaf.weight_vectors(model)), "mse")
    """

    amsgrad = Fixed(False)
    bias_correction = Fixed(True)
    vector_multiplier = Hyperparameter(POSITIVE)
    vectors = VectorAxes()
    normalize_on_build = Option(True, False)

    traits_follow_from = (*Adam.traits_follow_from, "vectors")

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        vector_multiplier: float = 50.0,
        vectors: Mapping[str, int | list[int] | None] | None = None,
        normalize_on_build: bool = True,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **kwargs)
        self.vector_multiplier = vector_multiplier
        type(self).vectors.__set__(self, vectors)  # TensorFlow would wrap the user's dictionary
        self.normalize_on_build = normalize_on_build

    def traits(self, variables):
        found = resolve([(_path(v), tuple(v.shape)) for v in variables], self.vectors)
        return [{"axes": axes} | ({"decays": False} if axes else {}) for axes in found]

    def slot_shape(self, name, variable):
        shape = super().slot_shape(name, variable)
        axes = self._traits[self._get_variable_index(variable)]["axes"]
        if name == "momentum" or axes is None:
            return shape
        return tuple(1 if axis in axes else size for axis, size in enumerate(shape))

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        if self.normalize_on_build:
            for variable, dtype, traits in zip(
                self._trainable_variables, self._compute_dtypes, self._traits, strict=True
            ):
                if axes := traits["axes"]:
                    backends.replace_now(
                        variable, lambda w, dtype=dtype, axes=axes: unit(ops.cast(w, dtype), axes)
                    )

    def weight_of_average(self, average, traits):
        return average if traits["axes"] is None else unit(average, traits["axes"])

    @vectorwise
    def update(self, g, w, s, c):
        if s.axes is None:
            return super().update(g, w, s, c)
        scale = ops.ones_like(s.velocity)
        if self.normalize_on_build:
            scale = reciprocal_length(lambda w: w, s.axes, w)
        product = backends.total(lambda g, w: g * w, g, w, axes=s.axes)
        along = backends.kept(scale * (scale * product))
        m = lerp(s.momentum, g - along * w, c.weight_1)
        square = backends.total(lambda g, w, a: ops.square(g - a * w), g, w, along, axes=s.axes)
        v = lerp(s.velocity, square, c.weight_2)
        root = ops.sqrt(v) + c.epsilon_hat
        rate = backends.kept(divide(c.vector_multiplier * c.alpha, root, is_positive(c.epsilon)))

        def moved(w, m, scale, rate):
            return scale * w - rate * m

        length = reciprocal_length(moved, s.axes, w, m, scale, rate)
        return w - length * moved(w, m, scale, rate), {"momentum": m, "velocity": v}


def reciprocal_length(function, axes, *tensors):
    """1 over the length of each vector that an elementwise function gives; 0 for one of length 0.

    To multiply by it is cheaper than to divide, and XLA computes it again rather than to keep it.
    """
    squares = backends.total(lambda *x: ops.square(function(*x)), *tensors, axes=axes)
    return backends.kept(divide(1.0, ops.sqrt(squares), surely_positive=False))


def unit(x, axes):
    """The vectors of `x` divided by their lengths; one of length 0 stays.

    So does one of length 1 but for rounding, such as those of a checkpoint that was restored before
    the optimizer is built: training goes on from the very weights that were saved.
    """
    scale = reciprocal_length(lambda x: x, axes, x)
    rounding = 8 * float(np.finfo(keras.backend.standardize_dtype(x.dtype)).eps)
    return ops.where(ops.abs(scale - 1.0) < rounding, x, scale * x)
