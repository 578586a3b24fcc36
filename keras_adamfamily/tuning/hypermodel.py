"""From a user's model to a KerasTuner hypermodel that tries optimizers on it."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import tempfile
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import keras
import keras_tuner
import numpy as np

from keras_adamfamily.tuning.space import SearchSpace
from keras_adamfamily.validation import check_integer


class OptimizerHyperModel(keras_tuner.HyperModel):
    """A hypermodel whose hyperparameters are those of the optimizer; any KerasTuner tuner runs it.

    Args:
        build_model: A function without arguments that returns a new `keras.Model` at each call; or
            a KerasTuner function `build_model(hp)`, or a KerasTuner hypermodel, whose
            hyperparameters then join the search, but for those that are named like one of the
            space's, such as `learning_rate`: they keep their defaults, since they are of the
            optimizer that is replaced. Or a compiled Sequential or Functional model, of which each
            trial gets a copy with new initial weights, but for frozen and quantized ones and what
            `adapt` has found. Layers that a function uses and has not made, such as a pretrained
            base, begin each trial with the weights that they had at first. If the model is
            compiled, its loss, metrics and other settings stay and only its optimizer is replaced.
        space: The `SearchSpace`; by default the registry's ranges for AdamW, NAdamW and SGDW.
        dataset_size: Number of training examples.
        epochs: Number of epochs of a full training. With `batch_size` and `dataset_size` it turns
            the normalized weight decay into the one of a step.
        batch_size: Examples per batch; pass the same to `tuner.search`.
        loss: As in `model.compile`; needed if `build_model` returns a model that is not compiled.
        metrics: As in `model.compile`; replaces the model's metrics if given.

    Raises:
        TypeError: If `build_model` is not such a function or returns something else than a model.
        ValueError: If `build_model` returns the same model twice, or a model without a loss, or
            one in which two weights have the same path, on PyTorch; if it
            is a hypermodel with a `fit` of its own, or a model of a class of one's own; if `space`
            is no `SearchSpace`, or a number is no integer >= 1.

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
            if type(build_model).fit is not keras_tuner.HyperModel.fit:
                raise ValueError(
                    f"`build_model` is a hypermodel, {type(build_model).__name__}, with a `fit` of "
                    "its own, which a search does not call. Pass its `build`, and put what its "
                    "`fit` does into the model's `train_step`, into callbacks or into the space"
                )
            build_model = build_model.build
        self.takes_hyperparameters = _takes_hyperparameters(build_model)
        self.build_model = build_model
        self.space = SearchSpace() if space is None else space
        if not isinstance(self.space, SearchSpace):
            raise ValueError(f"`space` must be a SearchSpace. Received: space={space!r}")
        self.length = {
            "batch_size": check_integer("batch_size", batch_size, 1),
            "dataset_size": check_integer("dataset_size", dataset_size, 1),
            "epochs": check_integer("epochs", epochs, 1),
        }
        self.compile_arguments = {
            name: value for name, value in (("loss", loss), ("metrics", metrics)) if value
        }
        self._previous = lambda: None
        self._outside = _Outside()
        self._not_searched: set[str] = set()

    def build(self, hp) -> keras.Model:
        """Builds the user's model and compiles it with the optimizer that `hp` describes."""
        name, values = self.space.sample(hp)
        self.restore()  # first, for `build_model` may set or copy them
        model = self._model_of(hp) if self.takes_hyperparameters else self.build_model()
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
        self._outside.look_at(model)
        if keras.backend.backend() == "torch" and model.built:
            _check_parameters(model)
        with _scope_of(model):
            self._compile(model, self.space.optimizer(name, values, **self.length))
        return model

    def restore(self) -> None:
        """Gives layers that `build_model` has not made the weights that they had at first."""
        self._outside.restore()

    def _model_of(self, hp) -> keras.Model:
        """The user's model, whose function sees its defaults for what the space has names for."""
        view = copy.copy(hp)  # with the same space and values
        view.__class__ = _Without
        view.names, view.met, view.is_off = self.space.names, {}, False
        model = self.build_model(view)
        new = [name for name in view.met if name not in self._not_searched]
        if new:
            self._not_searched.update(new)
            kept = ", ".join(f"{name}={view.met[name]!r}" for name in new)
            warnings.warn(
                f"`build_model(hp)` has hyperparameters that are named like the search's own: they "
                f"keep their defaults ({kept}) and are not searched, since the search replaces the "
                "optimizer. Give one that is not the optimizer's another name",
                stacklevel=2,
            )
        return model

    def fit(self, hp, model, *args, **kwargs):
        """Trains a model that `build` gave; KerasTuner's tuners call it."""
        if self.space.batch_sizes:
            kwargs["batch_size"] = self.space.batch_size(hp.values, 0)
        return model.fit(*args, **kwargs)

    def _compile(self, model: keras.Model, optimizer) -> None:
        """Compiles as the user did, apart from the optimizer."""
        arguments = dict(self.compile_arguments)
        compile_model = model.compile
        if model.compiled:
            # The arguments as the user gave them: `get_compile_config` would serialize them, and
            # a loss that is a plain function would not come back. A `compile` of the model's own
            # has been called, with arguments that are not known here.
            arguments = {**model._compile_config.config, **arguments}
            compile_model = functools.partial(keras.Model.compile, model)
        elif "loss" not in arguments:
            raise ValueError(
                "`build_model` returned a model that is not compiled, so there is no loss to "
                "minimize. Call `model.compile(loss=..., metrics=...)` in it, or pass `loss=`"
            )
        compile_model(**{**arguments, "optimizer": optimizer})
        if model.built:  # so that Hyperband's promoted trials get their optimizer state back
            model.optimizer.build(model.trainable_variables)


class _Outside:
    """The variables that `build_model` uses and has not made: several models have them.

    Each trial is to begin with what they held when they were first met, and not with what the
    trials before it have left in them.
    """

    def __init__(self):
        self._met: dict[int, tuple[weakref.ref, np.ndarray]] = {}
        self._shared: dict[int, tuple[keras.Variable, np.ndarray]] = {}

    def look_at(self, model: keras.Model) -> None:
        """Takes note of a model that was built; what it is found to share begins anew."""
        met = {key: note for key, note in self._met.items() if note[0]() is not None}
        self._met = {}
        for variable in model.variables:
            key = id(variable)
            if key in self._shared:
                continue
            known, value = met.pop(key, (None, None))
            if known is not None and known() is variable:
                self._shared[key] = variable, value
                variable.assign(value)
            else:  # a copy: PyTorch's arrays change with the variable
                value = np.array(keras.ops.convert_to_numpy(variable))
                self._met[key] = weakref.ref(variable), value
        self._met |= met

    def restore(self) -> None:
        for variable, value in self._shared.values():
            variable.assign(value)


def _check_parameters(model: keras.Model) -> None:
    """Raises `ValueError` for weights that PyTorch's module lacks: their gradients only grow.

    Keras 3.15 keeps the parameters of a module by path, and where names are counted anew a layer
    that is older than the model may have the path of another one in it.
    """
    known = {id(parameter) for parameter in model.parameters()}
    for variable in model.trainable_variables:
        if id(variable.value) not in known:
            raise ValueError(
                f"two weights of the model have the path {variable.path!r}, of which Keras clears "
                "the gradient of one alone on PyTorch. Name the layer, or the model around it, "
                "that was made outside of `build_model`, such as with `name='base'`"
            )


def _scope_of(model: keras.Model) -> contextlib.AbstractContextManager:
    """Of the `tf.distribute` strategy that the model was built in: its optimizer is made there."""
    strategy = getattr(model, "distribute_strategy", None)
    return strategy.scope() if strategy else contextlib.nullcontext()


class _Without(keras_tuner.HyperParameters):
    """Hyperparameters that some `names` do not join; `met` are the defaults of those asked for.

    What depends on one of them joins if its default says so, else it `is_off`: KerasTuner gives
    `None` for it.
    """

    def _retrieve(self, hp):
        if self.is_off:
            return None
        if hp.name not in self.names:
            return super()._retrieve(hp)
        self.met[hp.name] = hp.default
        return hp.default

    @contextlib.contextmanager
    def conditional_scope(self, parent_name, parent_values):
        name, was_off = self._get_name(parent_name), self.is_off
        if not was_off and name not in self.met:
            with super().conditional_scope(parent_name, parent_values):
                yield
            return
        self.is_off = was_off or self.met[name] not in keras.tree.flatten(parent_values)
        try:
            yield
        finally:
            self.is_off = was_off

    def get(self, name):
        return self.met[name] if name in self.met else super().get(name)


def _copier(model: keras.Model) -> Callable[[], keras.Model]:
    """A function that makes copies of a compiled model, with new initial weights to train."""
    if not type(model).__module__.startswith("keras."):
        raise ValueError(
            f"`build_model` is a model of a class of its own, {type(model).__name__}, of which no "
            "copy is sure to be complete. Pass a function that builds and compiles it"
        )
    if not model.compiled:
        raise ValueError(
            "`build_model` is a model that is not compiled, so there is no loss to minimize. "
            "Call `model.compile(loss=..., metrics=...)` first"
        )

    def copy_of_model() -> keras.Model:
        # As the user gave them: a loss that is a plain function has no configuration.
        arguments = dict(model._compile_config.config)
        for name in ("metrics", "weighted_metrics"):
            arguments[name] = keras.tree.map_structure(_new_metric, arguments.get(name))
        arguments.pop("optimizer", None)
        model.compiled = False  # or Keras compiles the clone, by the configuration
        try:
            with _scope_of(model):
                clone = keras.models.clone_model(model)
        finally:
            model.compiled = True
        try:
            _keep_untrained(model, clone)
            if clone.built and clone.count_params() != model.count_params():
                raise ValueError(f"{clone.count_params()} parameters, not {model.count_params()}")
        except ValueError as error:
            raise ValueError(
                f"`build_model` is a model of which Keras makes no true copy ({error}), as where a "
                "layer is also in another one, such as TimeDistributed, or quantized ones are in "
                "another, such as MultiHeadAttention. Pass a function that builds and compiles it"
            ) from error
        clone.compile(**arguments)
        return clone

    return copy_of_model


def _keep_untrained(model: keras.Model, clone: keras.Model) -> None:
    """Hands the clone what is not to be trained.

    That is the weights of frozen layers, frozen and quantized ones of others, and what was adapted.
    """
    layers = (
        [layer for layer in m.layers if not isinstance(layer, keras.layers.InputLayer)]
        for m in (model, clone)
    )
    for layer, copied in zip(*layers, strict=True):
        for old, new in zip(layer._flatten_layers(), copied._flatten_layers(), strict=True):
            is_kept = not old.trainable or hasattr(old, "adapt")
            frozen = [i for i, w in enumerate(old._trainable_variables) if not w.trainable]
            # Integers, to which gradients do not go. The scales of float8 are a state of training.
            is_quantized = getattr(old, "quantization_mode", None) not in (None, "float8")
            if not (is_kept or frozen or is_quantized):
                continue
            if old.built and not new.built:
                new.build_from_config(old.get_build_config())
            new.trainable = old.trainable  # also of layers that it has made
            if is_kept:
                _copy_all(old, new)
                continue
            for i in frozen:
                _assign(new._trainable_variables[i], old._trainable_variables[i])
                new._trainable_variables[i].trainable = False
            if is_quantized:
                pairs = zip(new._non_trainable_variables, old._non_trainable_variables, strict=True)
                for its, mine in pairs:
                    _assign(its, mine)


def _assign(variable: keras.Variable, other: keras.Variable) -> None:
    """By an array: on JAX two variables would share a buffer, which a step donates."""
    variable.assign(keras.ops.convert_to_numpy(other))


def _copy_all(old: keras.layers.Layer, new: keras.layers.Layer) -> None:
    """What a layer's file of a saved model would have: weights, and a vocabulary."""
    weights: dict[str, Any] = {}
    old.save_own_variables(weights)
    # Arrays: on JAX two variables would share a buffer, which a step donates.
    new.load_own_variables({k: keras.ops.convert_to_numpy(v) for k, v in weights.items()})
    if hasattr(old, "save_assets"):
        with tempfile.TemporaryDirectory() as folder:
            old.save_assets(folder)
            new.load_assets(folder)


def _new_metric(metric: Any) -> Any:
    """A metric with a state of its own; names and plain functions are what they are."""
    is_metric = isinstance(metric, keras.metrics.Metric)
    return type(metric).from_config(metric.get_config()) if is_metric else metric


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
