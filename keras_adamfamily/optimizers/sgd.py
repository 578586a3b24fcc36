"""Stochastic gradient descent with momentum, and with decoupled weight decay (SGDW)."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_adamfamily.base import FamilyOptimizer, LearningRate, elementwise
from keras_adamfamily.hyperparameters import Hyperparameter, Option
from keras_adamfamily.validation import UNIT
from keras_adamfamily.weight_decay import Decoupled, WeightDecay, required


class SGD(FamilyOptimizer):
    """Stochastic gradient descent, with classical or Nesterov momentum.

    ```
    v_t     = mu * v_{t-1} - lr_t * g_t
    theta_t = theta_{t-1} + v_t                           classical
    theta_t = theta_{t-1} + mu * v_t - lr_t * g_t         Nesterov
    ```

    The form of Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and
    momentum in deep learning" (ICML 2013): the buffer holds past *steps*, so that a change of the
    learning rate applies to new gradients alone.

    When to use: as the baseline, and for convolutional networks, whose published results are mostly
    SGD with momentum 0.9 and a decaying rate. It has no scale of its own: the rate must be tuned
    again for every model and loss. Prefer an adaptive method for transformers.

    Elsewhere: Keras's is the same. The buffer of PyTorch and Optax holds gradients,
    `b_t = mu * b_{t-1} + g_t`, and the current rate multiplies all of it, so that a new rate
    rescales the past as well; all agree at a constant rate. PyTorch's default rate is 0.001, and
    its `weight_decay` is `L2` here.

    Args:
        learning_rate: lr, 0.01 by default.
        momentum: mu, a float in [0, 1], 0 by default, which keeps no state.
        nesterov: Whether to use Nesterov's form, `False` by default.
        **kwargs: The arguments that every optimizer of the family takes, see `FamilyOptimizer`.

    Raises:
        ValueError: If an argument has a wrong type or is out of range.

    Example:

    >>> import keras_adamfamily as kaf
    >>> optimizer = kaf.SGD(0.1, momentum=0.9, nesterov=True)
    """

    momentum = Hyperparameter(UNIT)
    nesterov = Option(False, True)

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, **kwargs)
        self.momentum = momentum
        self.nesterov = nesterov

    @property
    def slots(self):
        return {"momentum": 0.0} if self.is_tunable("momentum") or self.momentum else {}

    @property
    def handles_sparse_gradients(self):
        return not self.slots

    @elementwise
    def update(self, g, w, s, c):
        move = ops.multiply(g, c.lr)
        if not self.slots:
            return move, {}
        v = c.momentum * s.momentum - move
        step = move - c.momentum * v if self.nesterov else -v
        return step, {"momentum": v}


class SGDW(SGD):
    """SGD with momentum and decoupled weight decay.

    ```
    v_t     = mu * v_{t-1} - lr_t * g_t
    theta_t = theta_{t-1} + v_t - eta_t * lambda * theta_{t-1}
    ```

    With `lr_t = eta_t * alpha`. Loshchilov and Hutter, "Decoupled Weight Decay Regularization"
    (arXiv:1711.05101), Algorithm 1: the decay stays out of the momentum buffer and carries no
    learning rate. With `CosineWarmRestarts` as learning rate and `Normalized` decay this is SGDWR.

    When to use: instead of SGD with an L2 penalty, so that rate and decay can be tuned one after
    the other, as the paper finds for networks with normalization layers. Keep to `Decoupled` or
    `Normalized`: a plain float is multiplied by the learning rate, which couples the two again.

    Elsewhere: Keras's `SGD(weight_decay=w)` subtracts `lr_t * w * theta`, as a float does here.
    PyTorch's adds the decay to the gradient, inside the buffer (`L2`). TensorFlow Addons subtracted
    `w * theta`, which the user had to schedule. The authors' code decays biases and norm scales
    too, as this class does unless `weight_decay_exclude` says otherwise.

    Args:
        learning_rate: eta_t * alpha, 0.05 by default.
        momentum: mu, a float in [0, 1], 0.9 by default.
        nesterov: Whether to use Nesterov's form, `False` by default.
        weight_decay: `Decoupled(1e-4)` by default; see `FamilyOptimizer`.
        **kwargs: The arguments that every optimizer of the family takes, see `FamilyOptimizer`.

    Raises:
        ValueError: If an argument has a wrong type or is out of range.

    Example:

    >>> import keras_adamfamily as kaf
    >>> optimizer = kaf.SGDW(0.05, weight_decay=kaf.Decoupled(5e-4))
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.05,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float | WeightDecay = Decoupled(1e-4),  # noqa: B008 - it never changes
        **kwargs: Any,
    ):
        weight_decay = required(weight_decay, instead="SGD")
        super().__init__(learning_rate, momentum, nesterov, weight_decay=weight_decay, **kwargs)
