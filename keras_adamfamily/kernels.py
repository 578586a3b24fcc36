"""How PyTorch runs a rule over all variables at the speed of memory, instead of op by op.

An eager operation reads its operands from memory and writes its result back, so a rule of 15 of
them moves many times the bytes that it needs. A step takes the first of these ways that it can:

1. PyTorch's own fused kernels, for exactly the forms that they compute: Adam, AdamW and AMSGrad
   with an epsilon above 0, SGD, Adagrad. One call for all variables, and nothing to compile.
2. The rule compiled by TorchInductor, for models of `COMPILE_FROM` parameters and more. That takes
   seconds at the first step, for one variable as for hundreds.
3. The rule op by op, on pieces that stay in the processor's cache.

A rule marked `elementwise` runs on flat tensors: small variables are joined into one, so that
hundreds of them cost a few calls. Other rules run variable by variable. On a CPU small variables
are left to one thread: to wake the others for each of them takes longer than the work.
"""

from __future__ import annotations

import contextlib
import functools
import math
import numbers
import threading
import types
import warnings

import numpy as np
import torch
from keras.src.backend.common.stateless_scope import in_stateless_scope

from keras_adamfamily import backends, numerics
from keras_adamfamily.backends import COMPILE_FROM

#: Elements up to which a variable is left to one thread, and of a piece that fits the cache.
SMALL, PIECE = 2**16, 2**18
#: Elements up to which a variable is joined with others: to call a program costs no more than to
#: copy that many, to call the operations of a rule costs as much as `SMALL`.
TINY = 2**13
#: Elements of a piece for a fused kernel, which runs on all threads and so is costly to start.
CUT = 2**20
#: To trace and to compile sets what is global: threads that train models take turns.
_COMPILING = threading.Lock()


def available() -> bool:
    """Whether variables can be updated in place: eagerly, and outside of a stateless scope."""
    return not torch.compiler.is_compiling() and not in_stateless_scope()


def beside_programs(apply):
    """A step that `torch.compile` leaves out of the program that it makes of a training step.

    The kernels are faster than what it would make, for each variable anew, of the rule.
    """
    apart = torch._dynamo.disable(apply)  # Keras has imported it

    @functools.wraps(apply)
    def run(self, *args, **kwargs):
        return (apply if in_stateless_scope() else apart)(self, *args, **kwargs)

    return run


def clip(grads, clipnorm, clipvalue, global_clipnorm) -> list:
    """Keras's clipping, in one pass that reads, and another over what is beyond the bound."""
    grads = [torch.as_tensor(g) for g in grads]  # Keras takes arrays too
    if clipvalue:
        return [g.clamp(-clipvalue, clipvalue) for g in grads]
    return _scaled(grads, clipping_factors(grads, clipnorm, global_clipnorm))


def clipping_factors(grads, clipnorm, global_clipnorm, scale=1.0) -> list:
    """What to multiply each by, to clip `scale` times it as Keras does: scalars, None for 1."""
    norms = scale * torch.stack(_norms(grads))
    factors = scale * numerics.clipping_factors(norms, clipnorm, global_clipnorm)
    if factors.device.type != "cpu":  # where looking at them would wait for the device
        return list(torch.unbind_copy(factors))
    return [None if f == 1.0 else f for f in factors.tolist()]


def _norms(grads) -> list:
    """The norm of each. On a CPU PyTorch sums the squares of a large one on one thread, but takes
    its inner product with itself on all, and that is more exact too."""
    small = [g for g in grads if not _is_large(g)]
    norms = iter(())
    if small:
        with _threads_for(small[0]):
            norms = iter(torch._foreach_norm(small))
    flat = (g.reshape(-1) if _is_large(g) else None for g in grads)
    return [next(norms) if x is None else torch.dot(x, x).sqrt() for x in flat]


class Kernels:
    """Runs one optimizer's rule on its variables, in place."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.fused = _fused_kernel(optimizer)
        size = sum(math.prod(v.shape) for v in optimizer._trainable_variables)
        self.programs = {} if size >= COMPILE_FROM else None
        self._grouped = functools.cache(self._group)

    def step(self, grads, indices, contexts, factors=None) -> list[list]:
        """Updates the variables of `indices`, and their state, by the gradients times `factors`.

        Returns the rule's `sums` of each part.
        """
        if torch.is_grad_enabled():
            with torch.no_grad():
                return self.step(grads, indices, contexts, factors)
        o, sums = self.optimizer, []
        for (dtype, decays, flat, _), (positions, units) in self._grouped(tuple(indices)).items():
            c = contexts[dtype]
            fraction = c.decay if decays else None
            gs = [grads[i].contiguous().resolve_neg() for i in positions]
            fs = [factors and factors[i] for i in positions]
            states = [o._states[indices[i]] for i in positions]
            held = [o._trainable_variables[indices[i]]._value for i in positions]
            weights = [w.contiguous() for w in held]  # Keras's `Orthogonal` makes transposed ones
            pairs = zip(gs, weights, strict=True)
            gs = [g.clone() if g.data_ptr() == w.data_ptr() else g for g, w in pairs]
            state = {name: [s[name]._value for s in states] for name in states[0]}
            if not self._by_fused(gs, fs, weights, state, c, fraction):
                if c.decay is not None and self.programs is not None:  # one for what decays or not
                    fraction = torch.as_tensor(c.decay if decays else 0.0).to(gs[0])
                scalars = Scalars(c, fraction)
                for unit in units:
                    columns = [column[unit] for column in (gs, weights, *state.values())]
                    tensors, factor = _joined(columns, fs[unit], flat)
                    traits = o._traits[indices[positions[unit.start]]]
                    sums += self._run(tensors, factor, flat, tuple(state), traits, scalars)
                    _hand_back(tensors[1], columns[1])
            for w, new in zip(held, weights, strict=True):
                if new is not w:
                    w.copy_(new)
        return sums

    def _by_fused(self, grads, factors, weights, state, c, fraction) -> bool:
        """Whether PyTorch's own kernel computes the step; then it has been made."""
        if not self.fused or not _fits(weights):
            return False
        if self._takes_passes(grads, factors, c, fraction):
            return False
        return all(self._fused(*p, c, fraction) for p in _parts(grads, factors, weights, state))

    def _takes_passes(self, grads, factors, c, fraction) -> bool:
        """Whether a program needs one pass where the fused kernel has others beside its own.

        On a GPU such a pass costs less than to call a program for each large variable.
        """
        if self.programs is None or grads[0].device.type != "cpu":
            return False
        decays_apart = fraction is not None and not c.decays_gradient
        is_scaled = any(f is not None and _is_large(g) for g, f in zip(grads, factors, strict=True))
        return is_scaled or (decays_apart and self.fused is not _fused_adam)

    def _fused(self, grads, weights, *rest) -> bool:
        with _threads_for(weights[0]):
            return self.fused(grads, weights, *rest)

    def _group(self, indices):
        """Variables of one kind: their positions in `indices`, and slices of these to join."""
        kinds = {}
        for position, index in enumerate(indices):
            slots = self.optimizer._states[index].values()
            dtypes = (self.optimizer._trainable_variables[index].dtype, *(s.dtype for s in slots))
            decays = self.optimizer._traits[index]["decays"]
            flat = math.isfinite(self._flat_size(index))
            kind = (self.optimizer._compute_dtypes[index], decays, flat, dtypes)
            kinds.setdefault(kind, []).append(position)
        groups, joined = {}, SMALL if self.programs is None else TINY
        for kind, positions in kinds.items():
            sizes = {p: self._flat_size(indices[p]) for p in positions}
            positions.sort(key=lambda p: sizes[p] > joined)
            units, start, size = [], 0, 0
            for stop, p in enumerate(positions, 1):
                size += sizes[p]
                if size > PIECE or sizes[positions[min(stop, len(positions) - 1)]] > joined:
                    units.append(slice(start, stop))
                    start, size = stop, 0
            if start < len(positions):
                units.append(slice(start, len(positions)))
            groups[kind] = positions, units
        return groups

    def _flat_size(self, index) -> float:
        """The number of elements of a variable that the rule may take flat; else infinity."""
        o = self.optimizer
        return math.prod(o._trainable_variables[index].shape) if o._is_flat(index) else math.inf

    def _run(self, tensors, factor, flat, names, traits, scalars) -> list[list]:
        """Updates what is joined, or a variable, by a program or op by op; returns its sums."""
        # Whether it decays is in `fraction`: as a trait it would make two programs of one.
        known = {name: value for name, value in traits.items() if name != "decays"}
        if self.programs is not None:
            try:
                program, inputs = self._program(tensors, factor, names, known, scalars)
            except Exception as error:  # of TorchInductor, of the C compiler
                self.programs = None
                _tell(f"{error!r:.300}")
            else:
                with _threads_for(tensors[0]):
                    return [program(*inputs)]
        pieces, sums = [tensors], []
        if flat and tensors[0].device.type == "cpu":
            size = PIECE if tensors[0].numel() > PIECE else SMALL
            pieces = zip(*(x.split(size) for x in tensors), strict=True)
        for piece in pieces:
            with _threads_for(piece[0]):
                c, fraction = scalars.c, scalars.fraction
                sums.append(self._update(piece, factor, names, known, c, fraction))
        return sums

    def _program(self, tensors, factor, names, known, scalars):
        """`_update` for all that differs in sizes and in the values of scalars; and its inputs."""
        o, values = self.optimizer, scalars.tensors
        if tensors[0].device.type == "cpu" and getattr(type(o).update, "vectorwise", False):
            tensors, known = _in_blocks(tensors, known)
        if o.clipnorm or o.global_clipnorm or o.gradient_accumulation_steps:  # one for what is not
            values = values | {"factor": scalars.factor(factor, tensors[0])}
        inputs = [*tensors, *values.values()]
        sizes = _pattern([*tensors, *scalars.arrays])
        kinds = tensors[0].device, *sizes, *(x.dtype for x in tensors)
        key = *kinds, *names, scalars.key, repr(known)
        program = self.programs.get(key)
        if program is None:
            for_shapes = *key, *(x.shape for x in tensors)
            program = self.programs.get(for_shapes)
        if program is None:
            scalars.check()

            def update(*inputs):
                count = len(names) + 2  # of tensors, with the gradient and the weight
                given = scalars.constants | dict(zip(values, inputs[count:], strict=True))
                factor, fraction = given.pop("factor", None), given.pop("fraction")
                c = types.SimpleNamespace(**given)
                return self._update(inputs[:count], factor, names, known, c, fraction)

            with _COMPILING:
                program, depends_on_sizes = _compiled(update, inputs)
            self.programs[for_shapes if depends_on_sizes else key] = program
        return program, inputs

    def _update(self, tensors, factor, names, traits, c, fraction) -> list:
        """The rule on one piece, in place, by the gradient times a factor; returns its sums."""
        g, weights, *slots = tensors
        wide = (numerics.widened(slot).to(g.dtype) for slot in slots)
        state = dict(zip(names, wide, strict=True))
        s = types.SimpleNamespace(**traits, **state)
        update = self.optimizer._decayed_update
        new, state = update(g, weights.to(g.dtype), s, c, fraction, factor)
        for name, slot in zip(names, slots, strict=True):
            if name in state:
                value = state[name]
                slot.add_(value.increment) if hasattr(value, "increment") else slot.copy_(value)
        weights.copy_(new)
        return [state[name] for name in self.optimizer.sums]


class Scalars:
    """The step's scalars and its decay; in a program tensors are inputs, and others constants."""

    def __init__(self, c, fraction):
        self.c, self.fraction = c, fraction
        given = {**vars(c), "fraction": fraction}
        self.tensors = {name: x for name, x in given.items() if isinstance(x, torch.Tensor)}
        self.constants = {name: x for name, x in given.items() if name not in self.tensors}
        self.arrays = [x for x in self.tensors.values() if x.ndim]
        kinds = ((name, x.dtype, x.shape) for name, x in self.tensors.items())
        self.key = *kinds, repr(self.constants)
        self._factors = {}

    def factor(self, factor, tensor) -> torch.Tensor:
        """What a gradient is multiplied by, as a scalar of the kind of `tensor`."""
        if isinstance(factor, torch.Tensor):
            return factor.to(tensor)
        if factor not in self._factors:
            self._factors[factor] = tensor.new_full((), 1.0 if factor is None else factor)
        return self._factors[factor]

    def check(self) -> None:
        """Raises `TypeError` for constants that are not told apart by how they are printed."""
        plain = (numbers.Number, str, type(None))
        if others := [name for name, x in self.constants.items() if not isinstance(x, plain)]:
            raise TypeError(f"neither numbers nor tensors: {others} of the rule's `scalars`")


def _in_blocks(tensors, known):
    """Vectors along all axes but the last as blocks of 8 rows, and traits that say so.

    On a CPU TorchInductor sums down the rows for a few columns at a time, which fetches each line
    of memory many times, but a block it leaves in the cache. One program serves all kernels then.
    """
    axes, shape = known.get("axes"), tensors[1].shape
    rows = shape[:-1].numel()
    one = (*(1 for _ in shape[:-1]), shape[-1:].numel())  # of a slot: a number for each vector
    if axes != [*range(len(shape) - 1)] or rows % 8 or {x.shape for x in tensors} - {shape, one}:
        return tensors, known
    blocks = {shape: (rows // 8, 8, shape[-1]), one: (1, 1, shape[-1])}
    return [x.view(blocks[x.shape]) for x in tensors], known | {"axes": [0, 1]}


def _pattern(tensors):
    """Shapes with a name for each size but 0 and 1: a program knows which sizes are equal."""
    names = {0: 0, 1: 1}
    for x in tensors:
        yield tuple([names.setdefault(n, len(names)) for n in x.shape])


def _compiled(update, inputs):
    """A function of tensors, compiled for such as are equal to `inputs` in kind.

    And whether it is for these sizes alone, since a Python number or branch depends on them. Other
    tensors than `inputs` it may not read: they would be constants of the program.

    `torch.compile` would do, but to call what it makes takes 0.4 ms: it looks at all that the
    function could depend on. What that is for a rule is known here.
    """
    import torch._inductor  # takes two seconds
    from torch.fx.experimental.proxy_tensor import make_fx

    # Scalars that are one tensor now need not be one at the next step: copies are apart.
    apart = [x if x.ndim else x.clone() for x in inputs]
    with backends.for_program():
        traced = make_fx(update, tracing_mode="symbolic")(*apart)
    literal = torch.ops.aten.lift_fresh_copy.default
    for found in traced.graph.find_nodes(op="get_attr"):
        if any(user.target is not literal for user in found.users):
            raise RuntimeError("the rule reads a tensor that it is not handed")
    # Without the option a part that is small at first is left to one thread ever after.
    options = {"config_patches": {"cpp.dynamic_threads": True}}
    program = torch._inductor.standalone_compile(traced, inputs, options=options)
    given = (x.meta["val"] for x in traced.graph.find_nodes(op="placeholder"))
    sizes = (n for x in given for n in x.shape if isinstance(n, torch.SymInt))
    return program, any(n.node.shape_env.guards for n in sizes)


def _joined(columns, factors, flat):
    """Gradients, weights and slots as one tensor each, and their factor if there is one to apply.

    The memory of slots lies in a row from then on.
    """
    if len(columns[0]) == 1:
        return [x[0].view(-1) if flat else x[0].data for x in columns], factors[0]
    grads, weights, *slots = columns
    factor = factors[0] if len(set(factors)) == 1 else None  # one, if of a global norm
    with _threads_for(grads[0]):
        grads = grads if factor is not None else _scaled(grads, factors)
        both = [torch._utils._flatten_dense_tensors(x) for x in (grads, weights)]
        return [*both, *map(_in_a_row, slots)], factor


def _in_a_row(tensors):
    """One flat tensor, in whose memory these are from now on."""
    storage, end, in_a_row = tensors[0].untyped_storage(), 0, True
    for x in tensors:
        in_a_row = in_a_row and x.data_ptr() == storage.data_ptr() + end
        end += x.nbytes
    if in_a_row and end == storage.nbytes():
        return tensors[0].new_empty(0).set_(storage)
    row = torch._utils._flatten_dense_tensors(tensors)
    for x, part in zip(tensors, torch._utils._unflatten_dense_tensors(row, tensors), strict=True):
        x.data = part
    return row


def _hand_back(joined, weights) -> None:
    """Writes weights that were joined to where they came from."""
    if len(weights) > 1:
        with _threads_for(weights[0]):
            torch._foreach_copy_(weights, torch._utils._unflatten_dense_tensors(joined, weights))


@contextlib.contextmanager
def _threads_for(tensor):
    """One thread for little work on a CPU: to wake others takes longer."""
    threads = torch.get_num_threads()
    if threads == 1 or tensor.numel() > SMALL or tensor.device.type != "cpu":
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _is_large(tensor) -> bool:
    """Whether all threads are worth waking for it."""
    return tensor.numel() > SMALL and tensor.device.type == "cpu"


def _scaled(grads, factors) -> list:
    if all(factor is not None for factor in factors):
        return list(torch._foreach_mul(grads, factors))
    return [g if f is None else g * f for g, f in zip(grads, factors, strict=True)]


def _parts(grads, factors, weights, state):
    """What the fused kernels are called with, one after the other.

    On a CPU small variables, then large ones whose gradients stay as they are, then those that are
    scaled, in pieces whose new gradients do not leave the cache. On a GPU all at once.
    """
    together, large, cut = [], [], []
    for k, (g, factor) in enumerate(zip(grads, factors, strict=True)):
        (together if not _is_large(g) else large if factor is None else cut).append(k)
    columns = grads, factors, weights, *state.values()
    for whole in filter(None, (together, large)):
        gs, fs, ws, *slots = ([column[k] for k in whole] for column in columns)
        yield _scaled(gs, fs), ws, dict(zip(state, slots, strict=True))
    for k in cut:
        flat = [x[k].data.view(-1) for x in (grads, weights, *state.values())]
        for g, w, *slots in zip(*(x.split(CUT) for x in flat), strict=True):
            yield [g * factors[k]], [w], {n: [s] for n, s in zip(state, slots, strict=True)}


@functools.lru_cache(1)
def _tell(error: str) -> None:
    """Warns once."""
    warnings.warn(
        "TorchInductor failed, so weights are updated op by op, which is slower for large models. "
        "It needs a C++ compiler. KERAS_ADAMFAMILY_COMPILE_FROM=inf does without it, silently. "
        f"The error was: {error}",
        stacklevel=2,
    )


# PyTorch's fused kernels. Each function makes the step and returns True, or returns False where the
# kernel does not compute the rule.


def _fused_kernel(optimizer):
    """The function for the optimizer's rule, or None."""
    from keras_adamfamily.optimizers import adagrad, adam, amsgrad, sgd

    rule = type(optimizer)
    if optimizer.state_dtype != "float32":
        return None
    if rule.update is sgd.SGD.update:
        return None if optimizer.nesterov else _fused_sgd
    if rule.update is adagrad.Adagrad.update:
        return _fused_adagrad if optimizer.epsilon_form == "outside" else None
    if rule.update is adam.Adam.update:
        raw = rule.largest is adam.Adam.largest or (
            rule.largest is amsgrad.AMSGrad.largest and optimizer.maximum_of == "raw"
        )
        return _fused_adam if raw or not optimizer.amsgrad else None
    return None


def _fused_adam(grads, weights, state, c, fraction) -> bool:
    """With the kernel's own step at infinity its bias corrections are 1, and ours stand in `c`."""
    if not numerics.is_positive(c.epsilon):
        return False
    alpha, decay = float(c.alpha), _inside(c, fraction)
    if fraction is not None and not c.decays_gradient:
        decay = _decay_first(weights, float(fraction), within=alpha > 0) / (alpha or 1.0)
    kernel = torch._fused_adam_ if c.decays_gradient else torch._fused_adamw_
    largest = state.get("velocity_hat", [])
    kernel(
        weights,
        grads,
        state["momentum"],
        state["velocity"],
        largest,
        [_scalar(math.inf, weights[0].device)] * len(weights),
        lr=alpha,
        beta1=1.0 - float(c.weight_1),
        beta2=1.0 - float(c.weight_2),
        weight_decay=decay,
        eps=float(c.epsilon_hat),
        amsgrad=bool(largest),
        maximize=False,
    )
    return True


def _fused_sgd(grads, weights, state, c, fraction) -> bool:
    """The kernel's buffer holds gradients; ours holds steps, `-lr * g` of them."""
    momentum, rate = float(c.momentum), float(c.lr)
    if state and not momentum:
        return False
    if fraction is not None and not c.decays_gradient:
        _decay_first(weights, float(fraction))
    torch._fused_sgd_(
        weights,
        grads,
        state.get("momentum", []),
        weight_decay=_inside(c, fraction),
        momentum=momentum,
        lr=-1.0 if state else rate,
        dampening=1.0 + rate if state else 0.0,
        nesterov=False,
        maximize=False,
        is_first_step=False,
    )
    return True


def _fused_adagrad(grads, weights, state, c, fraction) -> bool:
    if not numerics.is_positive(c.epsilon):
        return False
    if fraction is not None and not c.decays_gradient:
        _decay_first(weights, float(fraction))
    torch._fused_adagrad_(
        weights,
        grads,
        state["accumulator"],
        [_scalar(1.0, weights[0].device)] * len(weights),
        lr=float(c.lr),
        lr_decay=0.0,
        weight_decay=_inside(c, fraction),
        eps=float(c.epsilon),
        maximize=False,
    )
    return True


def _fits(weights) -> bool:
    device = weights[0].device
    alike = all(w.dtype == torch.float32 and w.device == device for w in weights)
    return alike and device.type in ("cpu", "cuda")


def _decay_first(weights, fraction, within=False) -> float:
    """Decays the weights in a pass of its own; or returns the fraction, to decay it `within`.

    The kernel multiplies by `1 - fraction` in float32, which rounds a small fraction to a multiple
    of 2^-24: that is left to it only where it changes the decay by less than a percent.
    """
    if within and abs(1.0 - float(np.float32(1.0 - fraction)) - fraction) <= 0.01 * fraction:
        return fraction
    torch._foreach_add_(weights, weights, alpha=-fraction)
    return 0.0


def _inside(c, fraction) -> float:
    """The decay that is added to the gradient."""
    return 0.0 if fraction is None or not c.decays_gradient else float(fraction)


@functools.cache
def _scalar(value, device):
    return torch.full((), value, device=device)
