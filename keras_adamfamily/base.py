"""`FamilyOptimizer` turns a pure update rule into a Keras optimizer, once for the whole family.

A rule is a function of one variable's gradient, weight and state. Everything else that an optimizer
has to be lives here and nowhere else: precision, weight decay, clipping, accumulation, weight
averages, tunable hyperparameters, distribution, serialization. This is the only file that knows how
Keras drives an optimizer.
"""

from __future__ import annotations

import functools
import inspect
import numbers
import random
import re
from collections.abc import Callable, Iterable
from types import MappingProxyType, SimpleNamespace
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_adamfamily import backends
from keras_adamfamily.hyperparameters import (
    Fixed,
    Hyperparameter,
    Option,
    Setting,
    check_not_built,
)
from keras_adamfamily.numerics import (
    as_float,
    clipping_factors,
    hashed,
    lerp,
    round_to_bfloat16,
    to_float8,
    widened,
)
from keras_adamfamily.schedules import TunablePeak, peak_of, rate_at
from keras_adamfamily.validation import (
    NON_NEGATIVE,
    POSITIVE,
    UNIT,
    check_choice,
    check_float,
    check_integer,
    optional,
)
from keras_adamfamily.weight_decay import (
    Decoupled,
    TimesLearningRate,
    WeightDecay,
    as_weight_decay,
)

kernels = programs = None
if backends.BACKEND == "torch":
    from keras_adamfamily import kernels
else:
    from keras_adamfamily import programs

#: What a learning rate may be: a number, a schedule, or a callable without arguments.
LearningRate = float | keras.optimizers.schedules.LearningRateSchedule | Callable[[], float]


class Added:
    """New state given as an increment, so that a sparse one updates only the rows it has."""

    def __init__(self, increment):
        self.increment = increment


class Last:
    """New state that is computed after the new weights, since these need the old state.

    XLA on a CPU would else keep a copy of it.

    Args:
        function: From `scalar` and `inputs` to the new state.
        scalar: Some scalar that the new state depends on, a float or a tensor.
        *inputs: Tensors that `function` computes something from that the step is made of too, so
            that it is computed again and not kept.
    """

    def __init__(self, function, scalar, *inputs):
        self.function, self.scalar, self.inputs = function, scalar, inputs


def elementwise(update):
    """Marks a rule that treats every element on its own, given the step's scalars.

    Such a rule may be run on several variables at once, and on parts of one. The mark belongs to
    the function: a subclass with a rule of its own does not inherit it.
    """
    update.elementwise = True
    return update


def vectorwise(update):
    """Marks a rule that is elementwise but for sums along `s.axes`, by `backends.total`.

    PyTorch hands it the same numbers in other shapes, with axes to match. Not inherited either.
    """
    update.vectorwise = True
    return update


class FamilyOptimizer(keras.optimizers.Optimizer):
    """Base class of the family.

    A subclass declares its hyperparameters, its state, and one pure rule:

    ```python
    import keras
    from keras import ops
    from keras_adamfamily.base import FamilyOptimizer
    from keras_adamfamily.hyperparameters import Hyperparameter
    from keras_adamfamily.numerics import lerp
    from keras_adamfamily.validation import BETA

    @keras.saving.register_keras_serializable()
    class SignMomentum(FamilyOptimizer):
        beta = Hyperparameter(BETA)
        slots = {"momentum": 0.0}

        def __init__(self, learning_rate=1e-3, beta=0.9, **kwargs):
            super().__init__(learning_rate, **kwargs)
            self.beta = beta

        def update(self, g, w, s, c):
            m = lerp(s.momentum, g, 1 - c.beta)
            return c.lr * ops.sign(m), {"momentum": m}
    ```

    What a rule is handed:

    - `g`, `w`: the gradient (after clipping) and the weight, in float32, or float64 for float64
      variables, whatever the variable's dtype.
    - `s`: this variable's state by name (`s.momentum`), of the variable's shape unless `slot_shape`
      says otherwise, and what `traits` says of the variable.
    - `c`: the step's scalars, computed once per step: `c.t` (1, 2, ...), `c.lr`, `c.step` (the
      batch count that schedules see), `c.dtype`, every hyperparameter, whatever `scalars` and
      `survey` added, and the model-wide state declared in `scalar_slots`.

    It returns what to subtract from the weight, and the new state. It assigns nothing, keeps no
    Python state, and never branches on a tensor.

    It goes into `model.compile`, saving and loading like those of the package. `get`, the command
    and the tuner know the optimizers of the registry alone.

    Args:
        learning_rate: A float >= 0, a `keras.optimizers.schedules.LearningRateSchedule`, or a
            callable without arguments.
        weight_decay: `None`; a float, with Keras's meaning `lr_t * weight_decay * theta`;
            `Decoupled`, the paper's `eta_t * lambda * theta`; `Normalized`, which scales lambda to
            the length of training; or `L2`, the classical term inside the gradient.
        weight_decay_exclude: Regular expressions; a variable whose full path (such as
            `"encoder/dense_1/bias"`) one of them is found in is not decayed. Saved with the
            optimizer. The same as calling `exclude_from_weight_decay(var_names=...)`.
        initial_learning_rate: lr_0 in `eta_t = lr_t / lr_0`. By default the float given as
            `learning_rate`, or the schedule's peak.
        tunable: Names of hyperparameters to hold in variables; see `make_tunable`.
        clipnorm: Clips each variable's gradient to this norm, a float > 0.
        clipvalue: Clips each gradient element to +- this value, a float > 0.
        global_clipnorm: Clips the norm of all gradients together, a float > 0.
        use_ema: Whether to keep an exponential moving average of the weights, in float32 at least,
            advanced once per update of the weights. It replaces the weights at the end of `fit`.
        ema_momentum: The average's momentum, a float in [0, 1].
        ema_overwrite_frequency: Overwrite the weights by their average every so many updates.
        loss_scale_factor: A factor > 0 that the loss was multiplied by; gradients are divided by
            it.
        gradient_accumulation_steps: Apply the mean gradient of so many batches at once, >= 2. A
            batch that only accumulates costs one addition.
        state_dtype: `"float32"` by default; `"bfloat16"` holds the state per parameter in half the
            memory, 4 bytes instead of 8 for Adam, beside weights of any type but float64. The
            arithmetic stays in float32; what it gives is rounded up or down at random, so that
            small changes count on average. Sums, averages, scalars and what is smaller than its
            variable stay as they are. `"mixed_float8"` does the same, and holds averages of squares
            in a byte, 3 bytes in all for Adam. It is for gradients of 1e-8 to 20: where they are
            smaller steps shrink, where they are larger steps grow: scale the loss then, or clip.
        name: Name of the optimizer.

    Raises:
        ValueError: If an argument has a wrong type or is out of range; the message names the
            argument, the range and the value.
    """

    state_dtype = Option("float32", "bfloat16", "mixed_float8")
    #: State per parameter: name to initial value. A property when it depends on the options.
    slots: dict[str, float] = {}
    #: Those that average squares, from 0 on, of which a root is taken: coarse ones will do.
    squares: tuple[str, ...] = ()
    #: Model-wide state, one scalar each: name to initial value.
    scalar_slots: dict[str, float] = {}
    #: What `update` returns beside new state: sums over a variable, added over the whole model.
    sums: tuple[str, ...] = ()
    #: Whether the rule's operations keep a sparse gradient sparse; others get a dense one.
    handles_sparse_gradients = False
    #: Arguments that decide on `traits`: saved ones are only used again while these are the same.
    traits_follow_from = ("weight_decay_exclude",)
    #: PyTorch's way to run the rule; made by `build`.
    _kernels = None
    #: TensorFlow's; likewise.
    _programs = None
    #: Variables of the tunable hyperparameters by name; each optimizer gets its own.
    _tunables = MappingProxyType({})

    @property
    def is_elementwise(self) -> bool:
        """Whether the rule treats every element on its own."""
        return getattr(type(self).update, "elementwise", False)

    def __new__(cls, *args, **kwargs):
        accepted = _arguments(cls)
        unknown = sorted(set(kwargs) - accepted)
        if unknown:
            raise ValueError(
                f"{cls.__name__} does not know the argument(s) {unknown}. "
                f"It accepts {sorted(accepted)}."
            )
        return super().__new__(cls)

    def __init__(
        self,
        learning_rate: LearningRate,
        *,
        weight_decay: float | WeightDecay | None = None,
        weight_decay_exclude: Iterable[str] = (),
        initial_learning_rate: float | None = None,
        tunable: Iterable[str] = (),
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        state_dtype: str = "float32",
        name: str | None = None,
    ):
        if name is not None and not isinstance(name, str):
            raise ValueError(f"`name` must be a string or None. Received: name={name!r}")
        super().__init__(
            _checked_learning_rate(learning_rate),
            clipnorm=optional(check_float, "clipnorm", clipnorm, POSITIVE),
            clipvalue=optional(check_float, "clipvalue", clipvalue, POSITIVE),
            global_clipnorm=optional(check_float, "global_clipnorm", global_clipnorm, POSITIVE),
            use_ema=check_choice("use_ema", use_ema, (False, True)),
            ema_momentum=check_float("ema_momentum", ema_momentum, UNIT),
            ema_overwrite_frequency=optional(
                check_integer, "ema_overwrite_frequency", ema_overwrite_frequency, 1
            ),
            loss_scale_factor=optional(
                check_float, "loss_scale_factor", loss_scale_factor, POSITIVE
            ),
            gradient_accumulation_steps=optional(
                check_integer, "gradient_accumulation_steps", gradient_accumulation_steps, 2
            ),
            name=name,
        )
        vars(self).update(_tunables={}, _saved_traits=[])  # where Keras's tracking does not look
        self._requested_tunable = ()
        self.state_dtype = state_dtype
        self._given_learning_rate = _checked_learning_rate(learning_rate)
        self.initial_learning_rate = initial_learning_rate
        self.weight_decay = weight_decay
        self._excluded_patterns = _patterns("weight_decay_exclude", weight_decay_exclude)
        self._excluded_variables = {}
        self._request_tunable(tunable)
        if keras.config.floatx() in ("bfloat16", "float16"):
            self._hold_learning_rate_in("float32")

    # The rule: what a subclass implements.

    def scalars(self, c) -> dict[str, Any]:
        """Scalars of the step beyond the hyperparameters, such as bias corrections."""
        return {}

    def slot_shape(self, name: str, variable) -> tuple[int, ...]:
        """The shape of one slot of `variable`: the variable's own, unless the rule keeps less."""
        return tuple(variable.shape)

    def traits(self, variables) -> list[dict[str, Any]]:
        """What the rule knows about each variable when it is built, as attributes of `s`.

        Values that JSON can hold, such as the axes of a norm: constants of the compiled step, saved
        with the optimizer. With `"decays": False` a variable takes no weight decay.
        """
        return [{} for _ in variables]

    def survey(self, grads, weights, states, c) -> tuple[dict[str, Any], dict[str, Any]]:
        """A first pass over the whole model, before any weight moves.

        The arguments are lists over the variables that have a gradient. Returns scalars for `c`,
        and the new values of `scalar_slots`.
        """
        return {}, {}

    def conclude(self, sums, c) -> dict[str, Any]:
        """What the rule makes of `sums` when all weights have moved: new values of `scalar_slots`.

        To sum in the same pass costs nothing; where the step itself depends on the whole model, see
        `survey`.
        """
        return {}

    def update(self, g, w, s, c) -> tuple[Any, dict[str, Any]]:
        """The rule for one variable: returns what to subtract from `w`, and the new state."""
        raise NotImplementedError

    def weight_of_average(self, average, traits):
        """What a variable becomes when the moving average of its values replaces it."""
        return average

    def facts(self) -> dict[str, int | float | str | None]:
        """What the rule has found out in training, for people to read: name to plain value."""
        return {}

    # State.

    def build(self, variables: Iterable[keras.Variable]) -> None:
        """Creates the state, in an order that checkpoints rely on and that never changes.

        `iteration`, `learning_rate` (if a float), tunable hyperparameters (as declared), weight
        averages, gradient accumulators, the seed of a rounding state, `scalar_slots`, then `slots`
        variable by variable.
        """
        if self.built:
            return
        variables = list(variables)
        if any(map(backends.is_mirrored, variables)) and not backends.is_mirrored(self._iterations):
            raise ValueError(
                "The model was built within the scope of a `tf.distribute` strategy, and this "
                "optimizer was not, so that each replica would count the steps. Make it within "
                "`strategy.scope()` too"
            )
        dtypes = [_compute_dtype(variable) for variable in variables]
        widest = self._widest_dtype = "float64" if "float64" in dtypes else "float32"
        self._hold_learning_rate_in(widest)
        for name in self._hyperparameters():
            if self.is_tunable(name):
                self._tunables[name] = self._add_scalar(name, self._given(name), widest)
        super().build(variables)
        self._compute_dtypes = dtypes
        self._constants = {
            name: self._given(name)
            for name in self._declared(Hyperparameter)
            if not self.is_tunable(name)
        }
        self._set_traits(variables)
        if self.state_dtype != "float32":
            self._seed = self._add_scalar("seed", random.randint(1, 10**9), "int32")
        self._scalar_state = {
            name: self._add_scalar(name, value, widest) for name, value in self.scalar_slots.items()
        }
        self._states = [
            {
                name: self._add_slot(variable, name, value)
                for name, value in self.slots.items()
                if not self._overwrite_variable_with_gradient(variable)
            }
            for variable in variables
        ]
        if kernels is not None:
            vars(self)["_kernels"] = kernels.Kernels(self)
        if backends.BACKEND == "tensorflow":
            vars(self)["_programs"] = programs.Programs(self)

    def _set_traits(self, variables) -> None:
        """What is known of each variable; as it was saved, if for such variables, since Keras may
        load a model under other paths than it was built with."""
        shapes = [tuple(variable.shape) for variable in variables]
        if [tuple(entry["shape"]) for entry in self._saved_traits] == shapes:
            traits = [entry["traits"] for entry in self._saved_traits]
        else:
            traits = [
                {"decays": self._use_weight_decay(variable), **found}
                for variable, found in zip(variables, self.traits(variables), strict=True)
            ]
        vars(self)["_traits"] = traits

    def add_variable_from_reference(self, reference_variable, name=None, initializer="zeros"):
        """State of the shape and layout of `reference_variable`, in float32 at least."""
        return self._add_like(reference_variable, reference_variable.shape, name, initializer)

    def _add_slot(self, variable, name, value):
        shape = self.slot_shape(name, variable)
        return self._add_like(variable, shape, name, _constant(value), self._slot_dtype(name))

    def _slot_dtype(self, name) -> str:
        """What a slot of its variable's shape is held in."""
        if self.state_dtype == "mixed_float8":
            return "uint8" if name in self.squares else "bfloat16"
        return self.state_dtype

    def _add_like(self, variable, shape, name, initializer, dtype="float32"):
        """State beside `variable`, in float32 at least, sharded like it if of the same shape."""
        overwritten = self._overwrite_variable_with_gradient(variable)
        path = str(_path(variable)).replace("/", "_").replace(":", "_")
        same = tuple(shape) == tuple(variable.shape)
        if not same or not shape or _compute_dtype(variable) == "float64":
            dtype = _compute_dtype(variable)
        with backends.colocated(variable):
            return self.add_variable(
                shape=shape,
                initializer=initializer,
                dtype=variable.dtype if overwritten else dtype,
                layout=getattr(variable, "_layout", None) if same else None,
                name=f"{path}_{name or 'var'}",
            )

    def _add_scalar(self, name, value, dtype):
        return self.add_variable((), _constant(value), dtype, "only_first_replica", name=name)

    def _hold_learning_rate_in(self, dtype) -> None:
        held = self._learning_rate
        if isinstance(held, TunablePeak) and not isinstance(held.peak_now, keras.Variable):
            held.peak_now = self._add_scalar("learning_rate", held.peak_now, dtype)
        if isinstance(held, keras.Variable) and held.dtype not in (dtype, "float64"):
            with backends.untraced():
                value = as_float(held, self._given_learning_rate)
            self._untrack_variable(held)
            self._learning_rate = self._add_scalar("learning_rate", value, dtype)

    # The step.

    if kernels is not None:
        apply = kernels.beside_programs(keras.optimizers.Optimizer.apply)

    def _backend_apply_gradients(self, grads, trainable_variables) -> None:
        """Keras's hook for everything between scaled gradients and constraints."""
        if len(grads) != len(trainable_variables):
            raise ValueError(
                "There must be a gradient, or `None`, for each variable. Received: "
                f"{len(grads)} gradients for {len(trainable_variables)} variables."
            )
        indices = [self._get_variable_index(variable) for variable in trainable_variables]
        run = self._accumulate_or_step if self._programs is None else self._programs.run

        def update(grads):
            run([self._gradient(g, i) for g, i in zip(grads, indices, strict=True)], indices)

        backends.on_each_device(update, grads, trainable_variables)

    def _rate(self):
        """The learning rate of this step."""
        rate = self._learning_rate
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            return rate_at(rate, self._iterations, self._widest_dtype)
        return self.learning_rate

    def _accumulate_or_step(self, grads, indices, rate=None) -> None:
        """Adds to the totals and updates by them when it is time; or updates by the gradients."""
        count = self.gradient_accumulation_steps
        if not count:
            return self._step(grads, indices, rate)
        totals = [self._accumulated_gradients[i] for i in indices]
        for total, g in zip(totals, grads, strict=True):
            self.assign_add(total, g)

        def step():
            sums = [ops.convert_to_tensor(total) for total in totals]
            self._step(sums, indices, rate, 1.0 / count)
            for total, index in zip(totals, indices, strict=True):
                if _in_place():
                    total.value.data.zero_()
                    continue
                new = ops.convert_to_tensor(self._trainable_variables[index])
                _, zero = backends.in_turn(new, 0.0)
                self.assign(total, ops.full(total.shape, zero, total.dtype))

        is_last = ops.equal((self._iterations + 1) % count, 0)
        backends.run_if(is_last, step, [*self._trainable_variables, *self.variables])

    def _gradient(self, g, index):
        """The gradient in the precision of the arithmetic, its repeated rows merged if sparse.

        One of another shape is broadcast, as Keras's arithmetic would.
        """
        variable = self._trainable_variables[index]
        shape = tuple(variable.shape)
        g = backends.cast(backends.standardized(g, shape), self._compute_dtypes[index])
        if self.handles_sparse_gradients and backends.is_sparse(g):
            return backends.merge_rows(g)
        g = backends.densify(g)
        try:
            return backends.broadcast(g, shape)
        except Exception as error:
            raise ValueError(
                f"The gradient of {_path(variable)!r} must be of its shape {shape}. "
                f"Received one of {tuple(g.shape)}."
            ) from error

    def _step(self, grads, indices, rate, scale=1.0) -> None:
        """Updates the variables of `indices` by the gradients times a float."""
        rate = self._rate() if rate is None else rate
        factors = None if self._has_survey else self._factors(grads, scale)
        if factors is None:
            grads = self._clip_gradients([g if scale == 1.0 else g * scale for g in grads])
        self._update_variables(grads, indices, rate, factors)
        if self.use_ema:
            self._update_averages()

    def _clip_gradients(self, grads) -> list:
        bounds = self.clipnorm, self.clipvalue, self.global_clipnorm
        if any(bounds) and _in_place():
            return kernels.clip(grads, *bounds)
        if any(bounds) and not backends.CLIPS_SPARSE:
            grads = [backends.densify(g) for g in grads]
        factors = self._factors(grads)
        if factors is None:
            return super()._clip_gradients(grads)
        return [g * f for g, f in zip(grads, factors, strict=True)]

    def _factors(self, grads, scale=1.0) -> list | None:
        """What clips the gradients times `scale` where they are used, if factors do; or `None`."""
        bounds = self.clipnorm, self.global_clipnorm
        if self.clipvalue or any(map(backends.is_sparse, grads)):
            return None
        if not any(bounds):
            return None if scale == 1.0 else [scale] * len(grads)
        if _in_place():
            return kernels.clipping_factors(grads, *bounds, scale)
        norms = [scale * ops.sqrt(backends.total(ops.square, g)) for g in grads]
        if self.clipnorm:  # each as soon as its norm is known, while the gradient is in the cache
            return [scale * clipping_factors(norm, *bounds) for norm in norms]
        widest = max(map(_compute_dtype, grads))
        norms = ops.stack([backends.cast(norm, widest) for norm in norms])
        factors = ops.unstack(scale * clipping_factors(norms, *bounds))
        return [backends.cast(f, g.dtype) for g, f in zip(grads, factors, strict=True)]

    def assign_add(self, variable, value) -> None:
        """Adds to a variable; in place on PyTorch, where Keras makes a sum and copies it."""
        if _in_place():
            variable.value.data.add_(value)
        else:
            super().assign_add(variable, value)

    def update_step(self, gradient, variable, learning_rate) -> None:
        """Updates one variable by the rule and its weight decay, without clipping or averaging."""
        index = self._get_variable_index(variable)
        self._update_variables([self._gradient(gradient, index)], [index], learning_rate)

    @property
    def _has_survey(self) -> bool:
        return type(self).survey is not FamilyOptimizer.survey

    def _update_variables(self, grads, indices, learning_rate, factors=None) -> None:
        decay = as_weight_decay(self._weight_decay)
        dtypes = sorted({self._compute_dtypes[i] for i in indices})
        contexts = {dtype: self._context(dtype, learning_rate, decay) for dtype in dtypes}
        new_scalars = self._survey(grads, indices, contexts) if self._has_survey else {}
        if _in_place():
            parts = self._kernels.step(grads, indices, contexts, factors)
        else:
            once, parts = programs.traced_once(self) if programs else self._decayed_update, []
            factors = factors or [None] * len(grads)
            for index, g, factor in zip(indices, grads, factors, strict=True):
                c = contexts[self._compute_dtypes[index]]
                update = once if self._is_flat(index) else self._decayed_update
                new, state = self._updated(update, index, g, c, factor)
                parts.append([state.pop(name) for name in self.sums])
                self._assign(index, new, state)
        if self.sums:
            sums = {
                name: sum(backends.cast(x, self._widest_dtype) for x in column)
                for name, column in zip(self.sums, zip(*parts, strict=True), strict=True)
            }
            new_scalars |= self.conclude(sums, contexts[max(contexts)])
        for name, value in new_scalars.items():
            self.assign(self._scalar_state[name], value)

    def _context(self, dtype, learning_rate, decay) -> SimpleNamespace:
        """The step's scalars in `dtype`."""
        c = SimpleNamespace(dtype=dtype, **self._constants)
        c.step = ops.convert_to_tensor(self._iterations)
        c.t = backends.cast(self.iterations, dtype) + 1.0
        c.lr = backends.cast(learning_rate, dtype)
        c.salt = None
        if self.state_dtype != "float32" and dtype == "float32":
            steps = backends.cast(self.iterations, "int32")
            c.salt = hashed(backends.cast(self._seed, "int32") + hashed(steps))
        c.batches = self.gradient_accumulation_steps or 1
        c.weight_decay = None if decay is None else decay.rate
        c.initial_learning_rate = self._given("initial_learning_rate")
        for name, variable in (self._tunables | self._scalar_state).items():
            setattr(c, name, backends.cast(variable, dtype))
        vars(c).update(self.scalars(c))
        is_off = decay is None or (decay.rate == 0.0 and "weight_decay" not in self._tunables)
        c.decay = None if is_off else decay.coefficient(c.weight_decay, c)
        c.decays_gradient = not is_off and decay.inside_gradient
        return c

    def _updated(self, update, index, g, c, factor) -> tuple:
        """What `update`, which is as good as `_decayed_update`, makes of one variable.

        Where XLA makes one loop of what it computes from the same arrays, it is made to compute all
        new state anew from them.
        """
        tensors = [g, *self._held(index)]
        new, state = update(*self._inputs(index, c, *tensors), factor)
        if self.is_elementwise and not self.sums and backends.fuses_results(*tensors):
            known = new
            for name in state:
                known, *tensors = backends.anew([known, *tensors])
                inputs = self._inputs(index, c, *tensors)
                state[name] = update(*inputs, factor, new=known)[1][name]
        return new, state

    def _is_flat(self, index) -> bool:
        """Whether a variable is like any other to the rule, element by element, but for decay.

        A scalar is not where state is rounded, since its own is not.
        """
        shape = tuple(self._trainable_variables[index].shape)
        full = all(tuple(slot.shape) == shape for slot in self._states[index].values())
        full = full and (shape != () or self.state_dtype == "float32")
        return full and self.is_elementwise and self._traits[index].keys() == {"decays"}

    def _held(self, index) -> list:
        """The values of a variable and of its slots."""
        held = [self._trainable_variables[index], *self._states[index].values()]
        return [ops.convert_to_tensor(variable) for variable in held]

    def _inputs(self, index, c, g, w, *slots) -> tuple:
        """What the rule is handed for one variable, and its decay."""
        state = {
            name: backends.cast(widened(slot), c.dtype)
            for name, slot in zip(self._states[index], slots, strict=True)
        }
        s = SimpleNamespace(**state, **self._traits[index])
        return g, backends.cast(w, c.dtype), s, c, c.decay if s.decays else None

    def _decayed_gradient(self, g, w, c, fraction) -> tuple:
        """The gradient with the decay that goes into it, and what fraction is to be subtracted."""
        if fraction is None:
            return g, None
        g = backends.densify(g)
        return (g + fraction * w, None) if c.decays_gradient else (g, fraction)

    def _decayed_update(self, g, w, s, c, fraction, factor=None, new=None) -> tuple:
        """The rule with its decay: the new weights, or a sparse step to subtract, and new state.

        The new state shares no memory with the old.

        Args:
            g, w, s, c: As in `update`.
            fraction: Of the weights to subtract, or to add to the gradient; `None` for none.
            factor: What clips the gradient, a scalar; `None` for 1.
            new: The new weights, where they have been computed and the state is wanted alone.
        """
        g = g if factor is None else g * factor
        g, fraction = self._decayed_gradient(g, w, c, fraction)
        step, state = self.update(g, w, s, c)
        if fraction is not None:
            step = step + fraction * w
        in_turn = backends.in_turn if new is None else lambda *tensors: tensors
        if new is None:
            new = step if backends.is_sparse(step) else w - step
        for name, value in state.items():
            if isinstance(value, Last):
                new, *inputs = in_turn(new, value.scalar, *value.inputs)
                state[name] = value.function(*inputs)
        if c.salt is not None:
            state = self._rounded(state, new, g, s, c, in_turn)
        inputs = [w, *vars(s).values()]
        state = {k: ops.copy(x) if any(x is i for i in inputs) else x for k, x in state.items()}
        return new, state

    def _rounded(self, state, new, g, s, c, in_turn) -> dict:
        """New state as its slots hold it, if of the variable's shape; one after the other."""
        key, salt = backends.densify(g), c.salt
        if not backends.is_sparse(new):
            new, salt, key = in_turn(new, salt, key)
            if backends.fuses_results(new):  # it cannot round several in one loop without copies
                key = new
        for name in self.sums:
            state[name], salt = in_turn(state[name], salt)
        rounded = {}
        for name, value in state.items():
            if isinstance(value, Added):
                value = getattr(s, name) + backends.densify(value.increment)
            shape = tuple(value.shape)
            if shape and name in self.slots and shape == tuple(key.shape):
                dtype = self._slot_dtype(name)
                narrow = to_float8 if dtype == "uint8" else round_to_bfloat16
                value = narrow(value, key, salt + list(self.slots).index(name))
                value, salt = in_turn(ops.cast(value, dtype), salt)
            rounded[name] = value
        return rounded

    def _survey(self, grads, indices, contexts) -> dict[str, Any]:
        """Runs the first pass of a rule that has one; returns the new model-wide state."""
        inputs = []
        for g, index in zip(grads, indices, strict=True):
            c = contexts[self._compute_dtypes[index]]
            g, w, s, c, fraction = self._inputs(index, c, g, *self._held(index))
            inputs.append((self._decayed_gradient(g, w, c, fraction)[0], w, s))
        grads, weights, states = (list(column) for column in zip(*inputs, strict=True))
        found, new_scalars = self.survey(grads, weights, states, contexts[max(contexts)])
        for dtype, c in contexts.items():
            vars(c).update({name: backends.cast(value, dtype) for name, value in found.items()})
        return new_scalars

    def _assign(self, index, new, state) -> None:
        variable = self._trainable_variables[index]
        for name, value in state.items():
            slot = self._states[index][name]
            if isinstance(value, Added):
                self.assign_add(slot, value.increment)
            else:
                self.assign(slot, value)
        if backends.is_sparse(new):
            self.assign_sub(variable, new)
        else:
            self.assign(variable, ops.cast(new, variable.dtype))

    def _update_averages(self) -> None:
        """Advances the weights' moving average; the first average is the first iterate."""
        is_later = ops.cast(ops.not_equal(self.iterations, 0), self._widest_dtype)
        weight = 1.0 - self.ema_momentum * is_later
        every = self.ema_overwrite_frequency
        for variable, average, traits in zip(
            self._trainable_variables,
            self._model_variables_moving_average,
            self._traits,
            strict=True,
        ):
            if average is None:
                continue
            w = backends.cast(variable, average.dtype)
            if _in_place():
                new = average.value.lerp_(w, backends.cast(weight, average.dtype))
            else:
                old = ops.convert_to_tensor(average)
                new = lerp(old, w, backends.cast(weight, average.dtype))
                self.assign(average, new)
            if every:
                overwrite = ops.equal((self.iterations + 1) % every, 0)
                w = ops.where(overwrite, self.weight_of_average(new, traits), w)
                self.assign(variable, ops.cast(w, variable.dtype))

    def _overwrite_model_variables_with_average_value(self, trainable_variables) -> None:
        for variable in trainable_variables:
            index = self._trainable_variables_indices.get(self._var_key(variable))
            if index is None:  # it was frozen when the optimizer was built
                continue
            average = self._model_variables_moving_average[index]
            # After a `fit` that failed, Keras's JAX trainer asks for it without the values.
            if average is not None and average._value is not None:
                w = self.weight_of_average(ops.convert_to_tensor(average), self._traits[index])
                # A copy: on JAX the two would share a buffer, which the next step donates.
                variable.assign(ops.copy(ops.cast(w, variable.dtype)))

    # Learning rate and weight decay.

    @property
    def learning_rate(self):
        """The current learning rate: a variable, or what the schedule or callable gives."""
        return super().learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        if callable(value) or isinstance(value, (numbers.Real, str)):
            value = _checked_learning_rate(value)
        keras.optimizers.Optimizer.learning_rate.fset(self, value)
        if callable(value):
            self._given_learning_rate = value
            self._check_initial_learning_rate()

    @property
    def initial_learning_rate(self):
        """lr_0 of `eta_t = lr_t / lr_0`: given, the first learning rate, or the schedule's peak."""
        tunable = self._tunables.get("initial_learning_rate")
        return self._given("initial_learning_rate") if tunable is None else tunable

    @initial_learning_rate.setter
    def initial_learning_rate(self, value):
        tunable = self._tunables.get("initial_learning_rate")
        if tunable is None:
            value = optional(
                check_float, "initial_learning_rate", value, POSITIVE, "takes the first one"
            )
            check_not_built(self, "initial_learning_rate")
        else:
            value = check_float("initial_learning_rate", value, POSITIVE)
            tunable.assign(value)
        self._given_initial_learning_rate = value

    @property
    def weight_decay(self):
        """What was given; the variable that holds its rate once that is tunable and built."""
        return self._tunables.get("weight_decay", self._weight_decay)

    @weight_decay.setter
    def weight_decay(self, value):
        if "_tunables" not in vars(self):  # Keras's constructor, before ours has come that far
            return
        new, old = as_weight_decay(value), vars(self).get("_weight_decay")
        tunable = self._tunables.get("weight_decay")
        if tunable is None:
            check_not_built(self, "weight_decay")
        elif value is None or (
            new is value and new.with_rate(0.0) != as_weight_decay(old).with_rate(0.0)
        ):
            raise ValueError(
                "A tunable `weight_decay` keeps its form once the optimizer is built, and its rate "
                f"is set by a float. Received: weight_decay={value!r}, where it is {old!r}"
            )
        if self.is_tunable("weight_decay") and old is not None and new is not value:
            new = as_weight_decay(old).with_rate(check_float("weight_decay", value, NON_NEGATIVE))
        self._weight_decay = new.rate if isinstance(new, TimesLearningRate) else new
        self._check_initial_learning_rate()
        if tunable is not None:
            tunable.assign(new.rate)

    def _check_initial_learning_rate(self) -> None:
        if isinstance(self._weight_decay, Decoupled) and self.initial_learning_rate is None:
            raise ValueError(
                f"{self._weight_decay!r} scales with lr_t / lr_0, and a positive lr_0 cannot be "
                "read off `learning_rate`. Pass `initial_learning_rate`, a float > 0. "
                f"Received: learning_rate={self._given_learning_rate!r}"
            )

    def exclude_from_weight_decay(
        self,
        var_list: Iterable[keras.Variable] | None = None,
        var_names: Iterable[str] | None = None,
    ) -> None:
        """Excludes variables from weight decay; to be called before `build`, and saved.

        Args:
            var_list: Variables to exclude.
            var_names: Regular expressions, each searched for in a variable's full path (such as
                `"encoder/dense_1/bias"`), the same on every backend.

        Raises:
            ValueError: If the optimizer is built already, or an expression is not valid.

        Example:

        >>> import keras_adamfamily as kaf
        >>> optimizer = kaf.AdamW(1e-3, weight_decay=0.01)
        >>> optimizer.exclude_from_weight_decay(var_names=["bias", "norm", "embedding"])
        """
        if self.built:
            raise ValueError(
                "`exclude_from_weight_decay()` must be called before the optimizer is built."
            )
        self._excluded_patterns += _patterns("var_names", var_names or ())
        for variable in var_list or ():
            if not hasattr(variable, "name") or not hasattr(variable, "shape"):
                raise ValueError(
                    "`var_list` must be a list of variables. "
                    f"Received: {variable!r} in var_list={var_list!r}"
                )
            self._excluded_variables[self._var_key(variable)] = f"^{re.escape(_path(variable))}$"

    @property
    def _exclusions(self) -> list[str]:
        """All exclusions as regular expressions."""
        return [*self._excluded_patterns, *self._excluded_variables.values()]

    def _use_weight_decay(self, variable) -> bool:
        by_name = any(re.search(pattern, _path(variable)) for pattern in self._excluded_patterns)
        return not by_name and self._var_key(variable) not in self._excluded_variables

    # Tunable hyperparameters.

    @classmethod
    @functools.cache
    def _declared(cls, kind) -> list[str]:
        """Names of the descriptors of `kind`, base classes first, as declared."""
        names = dict.fromkeys(name for owner in reversed(cls.__mro__) for name in vars(owner))
        return [name for name in names if isinstance(inspect.getattr_static(cls, name), kind)]

    def _hyperparameters(self) -> list[str]:
        return [*self._declared(Hyperparameter), "weight_decay", "initial_learning_rate"]

    def _given(self, name: str) -> float | None:
        """A hyperparameter's Python float, whether it is tunable or not."""
        if name == "weight_decay":
            form = as_weight_decay(self._weight_decay)
            return None if form is None else form.rate
        if name == "initial_learning_rate":
            rate = self._given_learning_rate
            candidates = (self._given_initial_learning_rate, rate, peak_of(rate))
            return next(
                (float(x) for x in candidates if isinstance(x, numbers.Real) and x > 0), None
            )
        return getattr(type(self), name).given(self)

    def make_tunable(self, *names: str) -> FamilyOptimizer:
        """Holds hyperparameters in scalar variables, so that they may change during training.

        A Python float is a constant of the compiled step: changing it has no effect there, or costs
        a retrace. A tunable one is part of the optimizer's state: it is read at every step,
        checkpointed, and may differ between trials that share one program. The learning rate is
        held in a variable in any case.

        Args:
            *names: Names of float arguments of this optimizer, `"weight_decay"` and
                `"initial_learning_rate"` included.

        Returns:
            The optimizer itself.

        Raises:
            ValueError: If the optimizer is built already, or a name is not one of its floats.

        Example:

        >>> import keras_adamfamily as kaf
        >>> optimizer = kaf.AdamW(1e-3, weight_decay=0.01).make_tunable("weight_decay", "beta_1")
        >>> optimizer.beta_1 = 0.95
        """
        if self.built:
            raise ValueError("`make_tunable()` must be called before the optimizer is built.")
        self._request_tunable(names)
        return self

    def is_tunable(self, name: str) -> bool:
        """Whether a hyperparameter is, or will be, held in a variable."""
        return name in self._requested_tunable

    def _request_tunable(self, names) -> None:
        if isinstance(names, str) or not isinstance(names, Iterable):
            raise ValueError(f"`tunable` must be a list of names. Received: tunable={names!r}")
        known = [
            name
            for name in self._hyperparameters()
            if getattr(getattr(type(self), name), "can_be_tunable", True)
        ]
        names = list(names)
        for name in names:
            if name not in known:
                raise ValueError(
                    f"`tunable` must name float arguments of {type(self).__name__}: "
                    f"{', '.join(known)}. Received: {name!r}"
                )
            if name in ("weight_decay", "initial_learning_rate") and self._given(name) is None:
                raise ValueError(
                    f"`{name}` cannot be tunable while it is None: give it a value first"
                )
        self._requested_tunable = tuple(dict.fromkeys((*self._requested_tunable, *names)))

    # Saving and loading.

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        if isinstance(self._learning_rate, keras.Variable):
            rate = as_float(self._learning_rate, self._given_learning_rate)
            config["learning_rate"] = rate
        for name in self._hyperparameters():
            config[name] = self._given(name)
            if name in self._tunables:
                config[name] = as_float(self._tunables[name], config[name])
        if isinstance(self._weight_decay, WeightDecay):
            form = self._weight_decay.with_rate(config["weight_decay"])
            config["weight_decay"] = keras.saving.serialize_keras_object(form)
        if config["initial_learning_rate"] == config["learning_rate"]:
            config["initial_learning_rate"] = self._given_initial_learning_rate
        config.update({name: getattr(self, name) for name in self._declared(Setting)})
        config["weight_decay_exclude"] = self._exclusions
        config["tunable"] = list(self._requested_tunable)
        variables = self._saved_traits
        if self.built:
            variables = [
                {"shape": list(variable.shape), "traits": traits}
                for variable, traits in zip(self._trainable_variables, self._traits, strict=True)
            ]
        if any(entry["traits"] != {"decays": True} for entry in variables):
            given = {name: config[name] for name in self.traits_follow_from}
            config["traits"] = {"given": given, "variables": variables}
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        if isinstance(config.get("weight_decay"), dict):
            config["weight_decay"] = keras.saving.deserialize_keras_object(
                config["weight_decay"], custom_objects=custom_objects
            )
        traits = config.pop("traits", None)
        optimizer = super().from_config(config, custom_objects)
        if traits and traits["given"].items() <= optimizer.get_config().items():
            vars(optimizer)["_saved_traits"] = traits["variables"]
        return optimizer

    def save_own_variables(self, store) -> None:
        if self.built:
            super().save_own_variables(store)

    def load_own_variables(self, store) -> None:
        """Restores the state; one of other variables, or in another code, is refused."""
        if not len(store.keys()):  # saved before training began
            return
        saved = [tuple(np.shape(store[str(i)])) for i in range(len(store.keys()))]
        expected = [tuple(variable.shape) for variable in self.variables]
        if self.built and saved != expected:
            differ = [
                f"{variable.path}: {tuple(variable.shape)} expected, {shape} saved"
                for variable, shape in zip(self.variables, saved, strict=False)
                if tuple(variable.shape) != shape
            ]
            raise ValueError(
                f"The saved state does not fit {type(self).__name__} {self.name!r}: "
                f"{len(expected)} variables expected, {len(saved)} saved. "
                f"First difference: {differ[0] if differ else 'the number of variables'}. "
                "Build the optimizer with the arguments and the model that it was saved with. "
                "To load the weights of a model alone, compile it afterwards."
            )
        for i, variable in enumerate(self.variables if self.built else ()):
            if (variable.dtype == "uint8") != (store[str(i)].dtype == "uint8"):
                raise ValueError(
                    f"The saved state does not fit {type(self).__name__} {self.name!r}: of "
                    f"{variable.path} {variable.dtype} is expected, {store[str(i)].dtype} saved. "
                    "Build the optimizer with the `state_dtype` that it was saved with."
                )
        super().load_own_variables(store)


def _in_place() -> bool:
    """Whether PyTorch's kernels update the variables in place."""
    return kernels is not None and kernels.available()


def without_loss_scaling(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer that a `LossScaleOptimizer` holds, or the optimizer itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def _path(variable) -> str:
    """The full path of a Keras variable; a raw `tf.Variable` only has a name."""
    return getattr(variable, "path", None) or variable.name


def _constant(value):
    """An initializer that does not round to `floatx`, as `initializers.Constant` does."""
    return lambda shape, dtype: ops.full(shape, value, dtype)


def _compute_dtype(variable) -> str:
    dtype = keras.backend.standardize_dtype(variable.dtype)
    return "float64" if dtype == "float64" else "float32"


def _checked_learning_rate(value: Any) -> Any:
    """A float, a schedule or a callable, or a `ValueError` that says so."""
    if callable(value) and not isinstance(value, type):
        return value
    otherwise = " A `LearningRateSchedule` or a callable is accepted too."
    return check_float("learning_rate", value, NON_NEGATIVE, otherwise)


def _patterns(name: str, value: Any) -> list[str]:
    """A list of valid regular expressions, or a `ValueError` that says what is wrong."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(
            f"`{name}` must be a list of regular expressions. Received: {name}={value!r}"
        )
    patterns = list(value)
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise ValueError(
                f"`{name}` must be a list of regular expressions. "
                f"Received: {pattern!r} ({error}) in {name}={patterns!r}"
            ) from None
    return patterns


def _arguments(cls) -> set[str]:
    """Names of the arguments that the constructor of `cls` takes, those that it passes on too."""
    names = set()
    for owner in cls.__mro__:
        if "__init__" not in vars(owner):
            continue
        parameters = inspect.signature(owner.__init__).parameters.values()
        names.update(
            p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        )
        if owner is FamilyOptimizer or all(p.kind != p.VAR_KEYWORD for p in parameters):
            break
    return names - {"self"} - set(cls._declared(Fixed))
