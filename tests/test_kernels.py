"""PyTorch's fast ways to make a step compute what the plain one does: rule by rule, eagerly."""

import concurrent.futures
import functools
import time
import warnings

import numpy as np
import pytest

import keras_adamfamily as kaf
from tests.steps import (
    BACKEND,
    largest_difference,
    random_problem,
    to_numpy,
    trajectory,
    variables_of,
)

pytestmark = pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's kernels")

if BACKEND == "torch":
    import keras
    import torch
    from keras import ops

    from keras_adamfamily import kernels

SCHEDULE = kaf.WarmupCosine(0.1, total_steps=12, warmup_steps=3)
DECAYS = {
    "none": {},
    "times lr": {"weight_decay": 0.1},
    "decoupled": {"weight_decay": kaf.Decoupled(0.01), "weight_decay_exclude": ["w1"]},
    "L2": {"weight_decay": kaf.L2(0.01), "weight_decay_exclude": ["w0"]},
}
#: Forms that a fused kernel computes, and forms beside each that it does not.
FUSED = {
    "Adam": {},
    "AdamW": {"beta_1": 0.5, "beta_2": 0.9},
    "Adam, hat": {"epsilon": 1e-7, "epsilon_form": "hat"},
    "Adam, no correction": {"bias_correction": False},
    "Adam, decayed beta": {"beta_1_decay": 0.9},
    "AMSGrad": {"epsilon": 1e-8, "bias_correction": True, "beta_2": 0.5},
    "AdamNC": {"epsilon": 1e-3},
    "Adagrad": {},
    "SGD": {},
    "SGD, momentum": {"momentum": 0.9},
}
NOT_FUSED = {
    "Adam": {"epsilon": 0.0},
    "AdamW": {"tunable": ["epsilon"]},
    "AMSGrad": {"epsilon": 1e-8, "bias_correction": True, "maximum_of": "corrected"},
    "AMSGrad, the paper's": {},
    "Adagrad": {"epsilon": 1e-7, "epsilon_form": "inside"},
    "SGD": {"momentum": 0.9, "nesterov": True},
    "RMSprop": {},
    "Nadam": {},
}


def make(label, **arguments):
    return getattr(kaf, label.split(",")[0])(**arguments)


@pytest.fixture
def plainly(monkeypatch):
    """Runs a function with the fast ways off."""

    def run(function):
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "available", lambda: False)
            return function()

    return run


@pytest.fixture
def programs(monkeypatch):
    """What was compiled, and that it compiles without a warning."""
    seen, compile_ = [], kernels._compiled

    def spy(update, inputs):
        seen.append([tuple(x.shape) for x in inputs])
        return compile_(update, inputs)

    monkeypatch.setattr(kernels, "_compiled", spy)
    monkeypatch.setattr(kernels, "COMPILE_FROM", 0)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="TorchInductor failed")
        yield seen


@pytest.fixture
def calls(monkeypatch):
    """Names of PyTorch's fused kernels that ran."""
    seen = []
    for name in ("_fused_adam_", "_fused_adamw_", "_fused_sgd_", "_fused_adagrad_"):
        kernel = getattr(torch, name)

        def spy(*args, name=name, kernel=kernel, **kwargs):
            seen.append(name)
            return kernel(*args, **kwargs)

        monkeypatch.setattr(torch, name, spy)
    return seen


@pytest.mark.parametrize("label", FUSED)
@pytest.mark.parametrize("decay", DECAYS)
def test_fused_kernels_compute_the_rule(label, decay, plainly, calls):
    """To rounding: a step differs by a few units in the last place of the weight and the step.

    Both compute each of at most 8 operations on the way to the weight in float32, in another order:
    within 8 * 2^-24 of values of at most |w| <= 4 per step, and 12 steps.
    """
    start, gradients = random_problem()
    arguments = {"learning_rate": SCHEDULE, **FUSED[label], **DECAYS[decay]}
    if label.startswith("SGD"):
        gradients = [[g / 10 for g in grads] for grads in gradients]
    fused = trajectory(make(label, **arguments), start, gradients)
    assert len(calls) >= len(gradients)
    plain = plainly(lambda: trajectory(make(label, **arguments), start, gradients))
    assert largest_difference(fused, plain) < 12 * 8 * 2.0**-24 * 4
    assert largest_difference(fused[-1], [w.astype("float32") for w in start]) > 1e-3


def test_a_step_that_is_compiled_as_a_whole_leaves_the_kernels_out(calls):
    """However many variables there are, TorchDynamo does not trace the update of any."""
    count, traced = 12, []
    random = np.random.RandomState(0)
    start = [random.randn(3, 4) for _ in range(count)]
    optimizer, variables = kaf.Adam(0.1), variables_of(start, "float32")
    factor = torch.tensor(2.0)

    def backend(graph, inputs):
        traced.append(len(graph.graph.nodes))
        return graph

    def step():
        grads = [factor * v.value.detach() for v in variables]
        optimizer.apply(grads, variables)
        return factor * variables[0].value.detach()

    torch._dynamo.reset()
    compiled = torch.compile(step, backend=backend)
    for _ in range(3):
        compiled()
    assert len(calls) == 3
    assert len(traced) == 2 and sum(traced) < 5 * count  # before the update and after it
    found = [to_numpy(v) for v in variables]
    variables = variables_of(start, "float32")
    optimizer = kaf.Adam(0.1)
    for _ in range(3):
        step()
    assert largest_difference(found, [to_numpy(v) for v in variables]) == 0


@pytest.mark.parametrize("label", NOT_FUSED)
def test_fused_kernels_are_left_alone_where_they_compute_another_form(label, calls):
    start, gradients = random_problem()
    trajectory(make(label, learning_rate=0.1, **NOT_FUSED[label]), start, gradients)
    assert not calls


def test_little_work_is_left_to_one_thread(monkeypatch):
    threads, kernel = [], torch._fused_adamw_

    def spy(weights, *args, **kwargs):
        threads.append((len(weights[0]), torch.get_num_threads()))
        return kernel(weights, *args, **kwargs)

    monkeypatch.setattr(torch, "_fused_adamw_", spy)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        variables = variables_of([np.ones(10), np.ones(kernels.SMALL + 1)], "float32")
        kaf.AdamW().apply([ops.ones_like(v) for v in variables], variables)
        assert threads == [(10, 1), (kernels.SMALL + 1, 3)] and torch.get_num_threads() == 3
        with pytest.raises(RuntimeError), kernels._threads_for(torch.ones(10)):
            raise RuntimeError
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_precisions_are_not_fused(dtype, calls):
    start, gradients = random_problem()
    trajectory(kaf.Adam(0.1), start, gradients, dtype)
    assert not calls


def test_a_rule_of_ones_own_is_not_fused(calls):
    class Half(kaf.Adam):
        def update(self, g, w, s, c):
            step, state = super().update(g, w, s, c)
            return 0.5 * step, state

    start, gradients = random_problem(steps=2)
    halves = trajectory(Half(0.1), start, gradients)
    assert not calls
    assert not hasattr(Half.update, "elementwise")
    assert largest_difference(halves, trajectory(kaf.Adam(0.05), start, gradients)) < 1e-6


@pytest.mark.parametrize("fraction", [1e-3, 1e-5, 4e-6, 1e-6])
def test_the_decay_of_the_fused_kernel_is_not_rounded_away(fraction):
    """A factor `1 - fraction` in float32 is off by up to half of 1e-7, for every weight alike."""
    weights = variables_of([1 + np.random.RandomState(0).rand(100_000)], "float32")
    before = weights[0].value.double()
    optimizer = kaf.AdamW(1e-30, weight_decay=kaf.Decoupled(fraction))
    optimizer.apply([ops.zeros(100_000)], weights)
    lost = (before - weights[0].value.double()).sum() / before.sum()
    assert abs(lost / fraction - 1) < 0.02


@pytest.mark.parametrize("name", kaf.names())
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_joined_and_cut_variables_change_no_bit(name, dtype, plainly, monkeypatch):
    monkeypatch.setattr(kernels, "_fused_kernel", lambda optimizer: None)
    monkeypatch.setattr(kernels, "SMALL", 7)
    monkeypatch.setattr(kernels, "PIECE", 10)
    random = np.random.RandomState(0)
    shapes = [(2, 3), (33,), (), (4, 2), (5,), (1, 7), (3, 3)]
    start = [random.randn(*shape) for shape in shapes]
    gradients = [[random.randn(*shape) for shape in shapes] for _ in range(3)]

    def run():
        optimizer = make(name, weight_decay=kaf.Decoupled(0.1), weight_decay_exclude=["w[13]"])
        return trajectory(optimizer, start, gradients, dtype)

    assert largest_difference(run(), plainly(run)) == 0.0


@pytest.mark.parametrize("bound", ["clipnorm", "clipvalue", "global_clipnorm"])
@pytest.mark.parametrize("largest", [1.0, np.inf])
@pytest.mark.parametrize("in_place", [True, False])
def test_clipping_is_keras_clipping_and_leaves_the_gradients(bound, largest, in_place, plainly):
    arrays = [[0.0, 0.0], [3.0, 4.0], [0.1], [1.0, largest]]
    grads = [torch.tensor(x) for x in arrays]
    optimizer = kaf.SGD(1.0, **{bound: 2.0})
    clip = functools.partial(optimizer._clip_gradients, grads)
    ours = clip() if in_place else plainly(clip)
    kerass = keras.optimizers.SGD(1.0, **{bound: 2.0})._clip_gradients(grads)
    for one, other, g, x in zip(ours, kerass, grads, arrays, strict=True):
        assert torch.allclose(one, other, rtol=2e-7, atol=0.0, equal_nan=True)
        assert torch.equal(g, torch.tensor(x))


@pytest.mark.parametrize("name", ["AdamW", "AMSGrad", "SGD, momentum", "Nadam", "SWATS"])
@pytest.mark.parametrize("bound", ["clipnorm", "global_clipnorm"])
def test_what_is_clipped_on_the_way_is_what_is_clipped_before(name, bound, monkeypatch):
    """Small and large variables, in pieces that do not divide the size; two steps."""
    monkeypatch.setattr(kernels, "PIECE", 1000)
    shapes = [(7,), (2, 3), (3001,), (50, 50)]
    random = np.random.RandomState(0)
    start, *gradients = ([random.randn(*shape) for shape in shapes] for _ in range(3))
    gradients[1][2] /= 1e3  # which clipnorm leaves alone
    arguments = {**FUSED, **NOT_FUSED}.get(name, {})
    clipping = make(name, **arguments, **{bound: 1.0})

    def clipped(grads):
        return [g.numpy() for g in clipping._clip_gradients([torch.from_numpy(g) for g in grads])]

    gradients = [[g.astype("float32") for g in grads] for grads in gradients]
    before = trajectory(make(name, **arguments), start, [clipped(grads) for grads in gradients])
    assert largest_difference(trajectory(clipping, start, gradients), before) == 0.0


def test_accumulation_in_place_is_the_mean(plainly):
    """Also with what is in the way of a fused kernel, and the totals are zero afterwards."""
    start, gradients = random_problem(steps=6)

    def run(name):
        optimizer = make(name, gradient_accumulation_steps=3)
        weights = trajectory(optimizer, start, gradients)
        totals = [total.value for total in optimizer._accumulated_gradients]
        assert all(torch.equal(total, torch.zeros_like(total)) for total in totals)
        return weights

    for name in ("AdamW", "Nadam", "SWATS"):
        assert largest_difference(run(name), plainly(lambda name=name: run(name))) < 1e-6


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Nadam"])
@pytest.mark.parametrize("clipping", [{}, {"clipnorm": 0.1}])
def test_weights_of_any_layout(name, clipping, monkeypatch, plainly):
    """Keras's `Orthogonal`, the default of recurrent kernels, makes transposed weights."""
    monkeypatch.setattr(kernels, "PIECE", 20)
    value = keras.initializers.Orthogonal(seed=0)((6, 6))
    gradients = [torch.from_numpy(np.random.RandomState(i).randn(6, 6)).float() for i in range(3)]

    def run():
        variable = keras.Variable(value)
        variable._value.data = value.T.clone(memory_format=torch.contiguous_format).T
        assert not variable.value.is_contiguous()
        optimizer = make(name, learning_rate=0.1, **clipping)
        for gradient in gradients:
            optimizer.apply([gradient], [variable])
        return [variable.value.detach().numpy().copy()]

    assert largest_difference(run(), plainly(run)) < 1e-6


@pytest.mark.parametrize("name", ["AdamW", "Nadam"])
def test_transposed_weights_stay_where_they_are(name, plainly):
    """Who shares their memory, such as a tied layer, sees each step."""

    def run():
        (variable,) = variables_of([np.arange(6.0).reshape(2, 3)], "float32")
        memory = variable.value.detach().T.contiguous()
        variable._value.data = memory.T
        optimizer = make(name, learning_rate=0.1)
        for _ in range(2):
            optimizer.apply([torch.ones(2, 3)], [variable])
        assert variable._value.data_ptr() == memory.data_ptr()
        assert torch.equal(memory.T, variable.value)
        return [memory.numpy().copy()]

    assert largest_difference(run(), plainly(run)) < 1e-6
    assert not np.allclose(run()[0], np.arange(6.0).reshape(2, 3).T)


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Adagrad"])
@pytest.mark.parametrize("halved", [0, 1])
def test_a_model_that_was_partly_halved_by_pytorch(name, halved):
    """Its Keras variables do not know: their dtype is what they were made with."""
    start, gradients = random_problem(steps=2)
    variables = variables_of(start, "float32")
    optimizer = make(name, learning_rate=0.01)
    optimizer.build(variables)
    variables[halved]._value.data = variables[halved]._value.data.half()
    exact = variables_of(start, "float32")
    other = make(name, learning_rate=0.01)
    for grads in gradients:
        grads = [torch.from_numpy(g).float() for g in grads]
        optimizer.apply(grads, variables)
        other.apply(grads, exact)
    for index, (v, e) in enumerate(zip(variables, exact, strict=True)):
        v, e = (x.value.detach().float().numpy() for x in (v, e))
        assert np.allclose(v, e, rtol=0, atol=4e-3 if index == halved else 1e-6)


def test_threads_compile_one_after_the_other(monkeypatch, plainly):
    """TorchInductor sets what is global meanwhile."""
    start, gradients = random_problem(steps=2)
    inside, most = [], []

    def slowly(update, inputs):
        inside.append(1)
        time.sleep(0.05)
        most.append(len(inside))
        inside.pop()
        return update, True

    def run(name):
        variables = variables_of(start, "float32")
        optimizer = kaf.get(name).__class__(0.01, clipnorm=0.5)
        for grads in gradients:
            optimizer.apply([torch.from_numpy(g).float() for g in grads], variables)
        return [v.value.detach().numpy() for v in variables]

    names = ["RMSprop", "Adadelta", "Nadam"]
    alone = plainly(lambda: [run(name) for name in names])
    monkeypatch.setattr(kernels, "COMPILE_FROM", 0)
    monkeypatch.setattr(kernels, "_compiled", slowly)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        together = list(pool.map(run, names))
    assert len(most) >= 3 and max(most) == 1
    assert all(largest_difference(*pair) < 1e-6 for pair in zip(alone, together, strict=True))


def test_gradients_of_any_layout(plainly):
    def run():
        (variable,) = variables_of([np.arange(6.0).reshape(2, 3)], "float32")
        gradient = torch.arange(6.0).reshape(3, 2).T
        assert not gradient.is_contiguous()
        optimizer = kaf.Adam(0.1)
        optimizer.apply([gradient], [variable])
        return variable.value.detach().numpy().copy()

    assert np.allclose(run(), plainly(run), atol=1e-6)


class Direction(kaf.FamilyOptimizer):
    """Steps along the gradient of each variable, of length 1: not element by element."""

    slots = {"average": 0.0}

    def slot_shape(self, name, variable):
        return tuple(variable.shape)[-1:]

    def traits(self, variables):
        return [{"axes": tuple(range(len(variable.shape) - 1))} for variable in variables]

    def update(self, g, w, s, c):
        average = 0.5 * s.average + ops.mean(g, s.axes)
        return c.lr * g / ops.norm(g) + c.lr * average, {"average": average}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *kaf.names(),
        "Nadam, clipped",
        "RMSprop, clipped as one",
        "AdamW, in bfloat16",
        "AdamW, in a byte",
        "Direction",
    ],
)
def test_the_compiled_rule(name, plainly, programs, monkeypatch):
    """One program, for variables of any shape, decayed or not, clipped or not, at any rate."""
    monkeypatch.setattr(kernels, "_fused_kernel", lambda optimizer: None)
    monkeypatch.setattr(kernels, "TINY", 8)
    random = np.random.RandomState(0)
    shapes = [(2, 3), (33,), (4, 2), (5,), (60, 2)]
    start = [random.randn(*shape) for shape in shapes]
    gradients = [[random.randn(*shape) for shape in shapes] for _ in range(4)]
    cls = Direction if name == "Direction" else kaf.get(name.split(",")[0]).__class__
    around = {
        "clipped": {"clipnorm": 6.0},
        "clipped as one": {"global_clipnorm": 6.0},
        "in bfloat16": {"state_dtype": "bfloat16"},
        "in a byte": {"state_dtype": "mixed_float8"},
    }
    around = around.get(name.partition(", ")[2], {})

    def run():
        keras.utils.set_random_seed(0)
        schedule = kaf.WarmupCosine(0.1, total_steps=4, warmup_steps=2)
        decay = {"weight_decay": kaf.Decoupled(0.01), "weight_decay_exclude": ["w1"]}
        return trajectory(cls(schedule, **decay, **around), start, gradients)

    fast = run()
    assert len(programs) == (2 if name in ("Direction", "NDAdam") else 1)  # one for each rank
    # Where a last bit differs, bfloat16 may be rounded the other way: 2^-8 of a step of up to 0.1;
    # in a byte 2^-2, of whose root half.
    bound = 4 * 0.1 * 2.0**-8 if "bfloat16" in name else 4 * 8 * 2.0**-24 * 4
    bound = 4 * 0.1 * 2.0**-3 if "byte" in name else bound
    assert largest_difference(fast, plainly(run)) < bound


@pytest.mark.slow
def test_vectors_in_blocks_of_rows(plainly, programs):
    """One program for kernels of any rank whose vectors have 8 n numbers, along all other axes."""
    random = np.random.RandomState(0)
    shapes = [(16, 3), (3, 2, 4, 5), (24, 8), (8, 8), (7, 3), (5, 16)]
    vectors = {"w": [0], "w1": [0, 1, 2], "w5": [1]}
    start = [random.randn(*shape) for shape in shapes]
    gradients = [[random.randn(*shape) for shape in shapes] for _ in range(4)]

    def run():
        return trajectory(kaf.NDAdam(0.1, vectors=vectors), start, gradients)

    fast = run()
    assert [shapes[0] for shapes in programs] == [(2, 8, 3), (3, 8, 8), (1, 8, 8), (7, 3), (5, 16)]
    assert largest_difference(fast, plainly(run)) < 4 * 8 * 2.0**-24 * 4


@pytest.mark.slow
def test_sizes_that_are_equal_by_chance_are_not_taken_for_the_same(plainly, programs):
    """A program for a square matrix is none for others, and one of a single row has its own."""
    random = np.random.RandomState(0)
    shapes = [(4, 4), (3, 5), (6, 6), (1, 4), (5, 3), (1, 1), (4, 1)]
    start = [random.randn(*shape) for shape in shapes]
    gradients = [[random.randn(*shape) for shape in shapes] for _ in range(3)]
    fast, slow = (
        run(lambda: trajectory(Direction(0.1), start, gradients))
        for run in (lambda function: function(), plainly)
    )
    assert [shapes[0] for shapes in programs] == [(4, 4), (3, 5), (1, 4), (1, 1), (4, 1)]
    assert largest_difference(fast, slow) < 3 * 8 * 2.0**-24 * 4


class ByShape(Direction):
    """As Muon's: a number that follows from the shape."""

    def update(self, g, w, s, c):
        rows, columns = g.shape
        step, state = super().update(g, w, s, c)
        return max(1, rows / columns) ** 0.5 * step, state


class ByIteration(Direction):
    """Reads a variable that it is not handed."""

    def update(self, g, w, s, c):
        step, state = super().update(g, w, s, c)
        return step * ops.cast(self.iterations, "float32"), state


class ByTable(Direction):
    """Hands itself more than scalars."""

    def scalars(self, c):
        return {"table": [c.t, 2.0]}

    def update(self, g, w, s, c):
        step, state = super().update(g, w, s, c)
        return step / c.table[0], state


class BySameScalar(Direction):
    """Two scalars that are one tensor at the first step."""

    def scalars(self, c):
        return {"rate": c.lr if int(c.step) == 0 else 0.1 * c.lr}

    def update(self, g, w, s, c):
        step, state = super().update(g, w, s, c)
        return step + c.rate * g, state


class ByLongerScalar(Direction):
    """A scalar that is an array, of another length at each step."""

    def scalars(self, c):
        return {"rates": ops.ones((2 + int(c.step),)) * c.lr}

    def update(self, g, w, s, c):
        step, state = super().update(g, w, s, c)
        return step + ops.sum(c.rates) * g, state


@pytest.mark.slow
@pytest.mark.parametrize("cls", [ByShape, ByIteration, ByTable, BySameScalar, ByLongerScalar])
@pytest.mark.filterwarnings("ignore:TorchInductor failed")
def test_what_a_rule_depends_on_is_no_constant(cls, plainly, monkeypatch):
    """It has a program for each shape, or none."""
    monkeypatch.setattr(kernels, "COMPILE_FROM", 0)
    random = np.random.RandomState(0)
    shapes = [(8, 3), (3, 8), (4, 30)]
    start = [random.randn(*shape) for shape in shapes]
    gradients = [[random.randn(*shape) for shape in shapes] for _ in range(4)]
    fast = trajectory(cls(0.1), start, gradients)
    slow = plainly(lambda: trajectory(cls(0.1), start, gradients))
    assert largest_difference(fast, slow) < 4 * 8 * 2.0**-24 * 4


@pytest.mark.parametrize("compile_from", [np.inf, pytest.param(0, marks=pytest.mark.slow)])
def test_joined_state_keeps_its_type(compile_from, monkeypatch):
    """A scalar's is float32 beside bfloat16, and is not joined with it."""
    monkeypatch.setattr(kernels, "COMPILE_FROM", compile_from)
    variables = variables_of([np.ones((4, 3)), 1.0, np.ones(5)], "float32")
    optimizer = kaf.Adam(0.1, state_dtype="bfloat16")
    for _ in range(2):
        optimizer.apply([ops.ones_like(v) for v in variables], variables)
    for slot in (slot for state in optimizer._states for slot in state.values()):
        assert keras.backend.standardize_dtype(slot.value.dtype) == slot.dtype


@pytest.mark.slow
def test_gradients_that_are_the_weights_or_their_negative_views(plainly, programs):
    start = [np.random.RandomState(0).randn(4, 3), np.random.RandomState(1).randn(5, 2)]

    def run():
        variables = variables_of(start, "float32")
        optimizer = Direction(0.1)
        for _ in range(3):
            first, second = (v.value.data for v in variables)
            optimizer.apply([first, torch._neg_view(second)], variables)
        return [v.value.detach().numpy() for v in variables]

    fast = run()
    assert programs
    assert largest_difference(fast, plainly(run)) < 3 * 8 * 2.0**-24 * 4


@pytest.mark.slow
def test_a_decay_that_changes_takes_the_same_program(plainly, programs):
    """It is tunable then, and so an input of the program."""

    def run():
        random = np.random.RandomState(0)
        (variable,) = variables_of([np.ones(20)], "float32")
        optimizer = kaf.RMSprop(0.1, weight_decay=kaf.L2(0.1), tunable=["weight_decay"])
        for rate in (0.1, 0.5, 0.1):
            optimizer.weight_decay = rate
            optimizer.apply([torch.from_numpy(random.randn(20)).float()], [variable])
        return [variable.value.detach().numpy().copy()]

    fast = run()
    assert len(programs) == 1
    assert largest_difference(fast, plainly(run)) < 3 * 8 * 2.0**-24 * 4


@pytest.mark.slow
def test_gradients_that_are_views_take_the_same_program(plainly, programs, monkeypatch):
    """As in the buckets of distributed training."""
    monkeypatch.setattr(kernels, "SMALL", 8)

    def run():
        random = np.random.RandomState(0)
        variables = variables_of([np.ones(16 + k) for k in range(11)], "float32")
        optimizer = kaf.RMSprop(0.1)
        for step in range(4):
            bucket = torch.from_numpy(random.randn(10 + sum(range(16, 27))).astype("float32"))
            views = bucket[10:].split(list(range(16, 27)))
            grads = [g.clone() if step and random.rand() < 0.5 else g for g in views]
            optimizer.apply(grads, variables)
        return [v.value.detach().numpy() for v in variables]

    fast = run()
    assert len(programs) == 1
    assert largest_difference(fast, plainly(run)) < 4 * 8 * 2.0**-24 * 4


@pytest.mark.parametrize(
    "compile_from, expected", [(0, [[14], [33], [50]]), (np.inf, [[47], [50]])]
)
def test_what_is_cheap_to_copy_is_joined(compile_from, expected, monkeypatch):
    """A program costs less to call than the operations of a rule."""
    monkeypatch.setattr(kernels, "COMPILE_FROM", compile_from)
    monkeypatch.setattr(kernels, "TINY", 8)
    monkeypatch.setattr(kernels, "SMALL", 40)
    seen = []

    def spy(self, tensors, *rest):
        seen.append(list(tensors[0].shape))
        return []

    monkeypatch.setattr(kernels.Kernels, "_run", spy)
    ones = [np.ones(size) for size in (33, 6, 50, 8)]
    trajectory(kaf.RMSprop(0.1), ones, [ones])
    assert seen == expected


def test_the_state_of_small_variables_stays_in_a_row(monkeypatch):
    """Joined once, not at every step; state that was moved elsewhere is joined again."""
    joined, join = [], torch._utils._flatten_dense_tensors
    monkeypatch.setattr(
        torch._utils, "_flatten_dense_tensors", lambda x: joined.append(len(x)) or join(x)
    )
    start, gradients = random_problem()
    variables = variables_of(start, "float32")
    optimizer = kaf.RMSprop(0.1)

    def step():
        joined.clear()
        optimizer.apply([torch.from_numpy(g).float() for g in gradients[0]], variables)
        return len(joined)

    assert [step(), step()] == [3, 2]  # then the gradients and the weights alone
    state = optimizer._states[0]["velocity"]
    state._value.data = state._value.data.clone()
    before = state.value.clone()
    assert [step(), step()] == [3, 2] and not torch.equal(state.value, before)


def test_without_a_compiler_training_goes_on_and_says_so_once(monkeypatch, plainly):
    def fail(*args):
        raise RuntimeError("no C++ compiler")

    kernels._tell.cache_clear()
    monkeypatch.setattr(kernels, "COMPILE_FROM", 0)
    monkeypatch.setattr(kernels, "SMALL", 4)
    monkeypatch.setattr(kernels, "_compiled", fail)
    start, gradients = random_problem()
    with pytest.warns(UserWarning, match="KERAS_ADAMFAMILY_COMPILE_FROM=inf") as told:
        ours = [trajectory(kaf.RMSprop(0.1), start, gradients) for _ in range(2)]
    assert len([w for w in told if "TorchInductor failed" in str(w.message)]) == 1
    plain = plainly(lambda: trajectory(kaf.RMSprop(0.1), start, gradients))
    assert largest_difference(ours, [plain, plain]) == 0.0


def test_a_program_that_fails_while_it_runs_is_no_reason_to_step_again(monkeypatch):
    """It may have changed state already, so the error is the user's to see."""

    def fail(*inputs):
        raise MemoryError("in the middle")

    monkeypatch.setattr(kernels, "COMPILE_FROM", 0)
    monkeypatch.setattr(kernels, "_compiled", lambda update, inputs: (fail, False))
    (variable,) = variables_of([np.ones(3)], "float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(MemoryError, match="in the middle"):
            kaf.RMSprop(0.1).apply([torch.ones(3)], [variable])
    assert torch.equal(variable.value, torch.ones(3))
