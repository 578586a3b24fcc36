"""From a user's model to a KerasTuner hypermodel that tries optimizers on it."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from typing import Any

import keras
import keras_tuner

from keras_adamfamily.tuning.space import SearchSpace


class OptimizerHyperModel(keras_tuner.HyperModel):
    """A hypermodel whose hyperparameters are those of the optimizer; any KerasTuner tuner runs it.

    Args:
        build_model: A function without arguments that returns a new `keras.Model` at each call; or
            a KerasTuner function `build_model(hp)`, or a KerasTuner hypermodel, whose
            hyperparameters then join the search; or a compiled model, of which each trial gets a
            copy with new initial weights. If the model is compiled, its loss, metrics and other
            settings stay and only its optimizer is replaced.
        space: The `SearchSpace`; by default the registry's ranges for AdamW, NAdamW and SGDW.
        dataset_size: Number of training examples.
        epochs: Number of epochs of a full training. With `batch_size` and `dataset_size` it turns
            the normalized weight decay into the one of a step.
        batch_size: Examples per batch; pass the same to `tuner.search`.
        loss: As in `model.compile`; needed if `build_model` returns a model that is not compiled.
        metrics: As in `model.compile`; replaces the model's metrics if given.

    Raises:
        TypeError: If `build_model` is not such a function or returns something else than a model.
        ValueError: If `build_model` returns the same model twice, or a model without a loss.

    Example:

    >>> import keras, keras_tuner
    >>> from keras_adamfamily import tuning
    >>> def build_model():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    ...     model.compile(loss="mse")
    ...     return model
    >>> hypermodel = tuning.OptimizerHyperModel(build_model, dataset_size=100, epochs=5)
    >>> model = hypermodel.build(keras_tuner.HyperParameters())
    >>> model.optimizer.name
    'adamw'
    """

    def __init__(
        self,
        build_model: Callable[..., keras.Model],
        space: SearchSpace | None = None,
        *,
        dataset_size: int,
        epochs: int,
        batch_size: int = 32,
        loss: Any = None,
        metrics: Any = None,
    ):
        super().__init__()
        if isinstance(build_model, keras.Model):
            build_model = _copier(build_model)
        elif isinstance(build_model, keras_tuner.HyperModel):
            build_model = build_model.build
        self.takes_hyperparameters = _takes_hyperparameters(build_model)
        self.build_model = build_model
        self.space = SearchSpace() if space is None else space
        self.length = {"batch_size": batch_size, "dataset_size": dataset_size, "epochs": epochs}
        self.compile_arguments = {
            name: value for name, value in (("loss", loss), ("metrics", metrics)) if value
        }
        self._previous = lambda: None

    def build(self, hp) -> keras.Model:
        """Builds the user's model and compiles it with the optimizer that `hp` describes."""
        name, values = self.space.sample(hp)
        model = self.build_model(hp) if self.takes_hyperparameters else self.build_model()
        if not isinstance(model, keras.Model):
            raise TypeError(
                "`build_model` must return a keras.Model. "
                f"It returned {model!r} of type {type(model).__name__}"
            )
        if model is self._previous():
            raise ValueError(
                "`build_model` must build a new model at each call, so that every trial starts "
                "from scratch. It returned the same model twice"
            )
        self._previous = weakref.ref(model)
        self._compile(model, self.space.optimizer(name, values, **self.length))
        return model

    def fit(self, hp, model, *args, **kwargs):
        """Trains a model that `build` gave; KerasTuner's tuners call it."""
        if self.space.batch_sizes:
            kwargs["batch_size"] = self.space.batch_size(hp.values, 0)
        return model.fit(*args, **kwargs)

    def _compile(self, model: keras.Model, optimizer) -> None:
        """Compiles as the user did, apart from the optimizer."""
        arguments = dict(self.compile_arguments)
        if model.compiled:
            # The arguments as the user gave them: `get_compile_config` would serialize them, and
            # a loss that is a plain function would not come back.
            arguments = {**model._compile_config.config, **arguments}
        elif "loss" not in arguments:
            raise ValueError(
                "`build_model` returned a model that is not compiled, so there is no loss to "
                "minimize. Call `model.compile(loss=..., metrics=...)` in it, or pass `loss=`"
            )
        model.compile(**{**arguments, "optimizer": optimizer})
        if model.built:  # so that Hyperband's promoted trials get their optimizer state back
            model.optimizer.build(model.trainable_variables)


def _copier(model: keras.Model) -> Callable[[], keras.Model]:
    """A function that makes copies of a compiled model, with new initial weights."""
    if not model.compiled:
        raise ValueError(
            "`build_model` is a model that is not compiled, so there is no loss to minimize. "
            "Call `model.compile(loss=..., metrics=...)` first"
        )
    config = model.get_compile_config()

    def copy_of_model() -> keras.Model:
        copy = keras.models.clone_model(model)
        copy.compile_from_config(config)
        return copy

    return copy_of_model


def _takes_hyperparameters(build_model: Any) -> bool:
    """Whether to call `build_model(hp)` rather than `build_model()`."""
    if not callable(build_model):
        raise TypeError(
            "`build_model` must be a function that returns a keras.Model. "
            f"Received: build_model={build_model!r}"
        )
    required = [
        parameter
        for parameter in inspect.signature(build_model).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if len(required) > 1:
        names = ", ".join(parameter.name for parameter in required)
        raise TypeError(
            "`build_model` must take no argument, or the KerasTuner `hp` alone. "
            f"Received a function that requires {names}"
        )
    return bool(required)
