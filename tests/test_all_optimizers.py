"""What every algorithm of the family must satisfy; the registry is the table.

Truth is the independent numpy twin in `tests/reference`, the papers' numbers there, and the other
libraries where they define the same rule.
"""

import itertools
import operator

import keras
import numpy as np
import pytest
from keras import ops

import keras_adamfamily as kaf
from keras_adamfamily import registry
from tests.reference import around, schedules, twins
from tests.reference.spec_numbers import CASES
from tests.steps import (
    BACKEND,
    Stepper,
    largest_difference,
    random_problem,
    to_numpy,
    trajectory,
    variables_of,
)

NAMES = kaf.names()
# TorchDynamo takes seconds to trace what the others compile in a fraction of one.
COMPILED = [False, pytest.param(True, marks=pytest.mark.slow if BACKEND == "torch" else ())]
TOLERANCE = {"float64": 1e-9, "float32": 2e-6}

#: Every form of every algorithm, beyond its defaults.
VARIANTS = {
    "SGD": [{"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}],
    "SGDW": [{"nesterov": True}],
    "Adagrad": [
        {"initial_accumulator_value": 0.1, "epsilon": 1e-7, "epsilon_form": "inside"},
        {"epsilon": 0.0},
    ],
    "RMSprop": [
        {"momentum": 0.9, "centered": True},
        {"epsilon": 1e-8, "epsilon_form": "outside"},
        {"epsilon": 1e-8, "epsilon_form": "outside", "centered": True},
    ],
    "Adadelta": [{"rho": 0.9, "epsilon": 1e-4}],
    "Adam": [
        {"epsilon": 1e-7, "epsilon_form": "hat"},
        {"bias_correction": False},
        {"beta_1_decay": 0.5},
        {"epsilon": 0.0},
        {"beta_1": 0.0},
    ],
    "Adamax": [{"epsilon": 1e-3}, {"epsilon": 1e-3, "epsilon_form": "inside_max"}],
    "Nadam": [{"schedule": schedule} for schedule in ("const_ema", "keras3", "simple", "algoperf")],
    "NAdamW": [{"beta_1": 0.95}],
    "AMSGrad": [
        {"bias_correction": True, "epsilon": 1e-7, "epsilon_form": "hat", "beta_2": 0.5},
        {"bias_correction": True, "epsilon": 1e-8, "beta_2": 0.5},
        {"bias_correction": True, "epsilon": 1e-8, "maximum_of": "corrected", "beta_2": 0.5},
        {"beta_1_decay": 0.9},
    ],
    "AdamNC": [{"beta_1_decay": 0.9}, {"epsilon": 1e-3}],
    "ADOPT": [{"epsilon": 0.0}, {"beta_2": 0.5, "epsilon": 1e-2}],
    "AdamW": [{"beta_2": 0.95, "epsilon": 1e-6}],
    "SWATS": [
        {"epsilon": 0.0},
        {"switch_at": 5},
        {"switch_at": 5, "scope": "variable"},
        {"tolerance": 1.0, "min_steps": 4},
        {"tolerance": 1.0, "scope": "variable"},
    ],
    "NDAdam": [
        {"vectors": {"w0": 0}},
        {"vectors": {"w0": 1}, "epsilon": 0.0, "vector_multiplier": 7.0},
        {"vectors": {"w0": 0}, "normalize_on_build": False, "epsilon_form": "hat"},
    ],
}
FORMS = [
    pytest.param(name, form, id=f"{name}-{'-'.join(map(str, form.values())) or 'default'}")
    for name in NAMES
    for form in [{}, *VARIANTS.get(name, [])]
]
#: Where the form makes no difference, the others are slow tests.
DEFAULT_FORMS = [
    pytest.param(*form.values, id=form.id, marks=[pytest.mark.slow] * bool(form.values[1]))
    for form in FORMS
]


def make(name, **arguments):
    return registry.find(name).cls(**arguments)


def twin_of(name, arguments):
    """The numpy twin with our constructor's defaults, so that a wrong default shows as well."""
    cls = getattr(twins, name)
    known = cls.__dataclass_fields__
    defaults = {k: v for k, v in registry.find(name).defaults.items() if k in known}
    return cls(**{**defaults, "weight_decay": None, **arguments})


def follow(twin, start, gradients):
    """A twin's trajectory for a list of arrays: a copy of it for each, or one for all of them."""
    import copy

    copies = [copy.deepcopy(twin) for _ in start]
    for i, each in enumerate(copies):
        each.name = f"w{i}"
    theta, weights = list(start), []
    for grads in gradients:
        if twin.whole_vector:
            theta = split(copies[0].step(join(theta), join(grads)), start)
        else:
            theta = [t.step(w, g) for t, w, g in zip(copies, theta, grads, strict=True)]
        weights.append(theta)
    return weights


def join(arrays):
    return np.concatenate([array.ravel() for array in arrays])


def split(vector, like):
    parts = np.split(vector, np.cumsum([array.size for array in like])[:-1])
    return [part.reshape(array.shape) for part, array in zip(parts, like, strict=True)]


def tunables(optimizer):
    """Names of the hyperparameters that may be tunable: all but those of the initial state."""
    return [n for n in optimizer._hyperparameters() if n != "initial_accumulator_value"]


class TestNumbers:
    """The rules, number by number."""

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    @pytest.mark.parametrize("compiled", COMPILED, ids=["eager", "compiled"])
    def test_the_papers_three_steps(self, case, dtype, compiled, x64):
        arguments = dict(case.arguments)
        rate = arguments["learning_rate"]
        if callable(rate):
            arguments["learning_rate"] = kaf.InverseSqrt(rate.keywords["alpha"])
        form = {"keras": float, "decoupled": kaf.Decoupled, "l2": kaf.L2}
        if decay := arguments.pop("weight_decay", None):
            arguments["weight_decay"] = form[decay[0]](decay[1])
        elif case.algorithm in ("AdamW", "NAdamW"):
            arguments["weight_decay"] = 0.0
        arguments.pop("nu_factor", None)
        if case.arguments.get("nu_factor"):
            pytest.skip("a misprint of the paper that no implementation has")
        optimizer = make(case.algorithm, **arguments)
        weights = trajectory(
            optimizer, [case.theta_0], [[g] for g in case.gradients], dtype, compiled
        )
        got = [float(w) for (w,) in weights]
        assert np.allclose(got, case.expected, rtol=0, atol=TOLERANCE[dtype])

    @pytest.mark.parametrize("name, form", FORMS)
    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_every_form_equals_its_numpy_twin_under_a_schedule(self, name, form, dtype, x64):
        start, gradients = random_problem()
        alpha = registry.find(name).defaults["learning_rate"]
        schedule = kaf.WarmupCosine(alpha, total_steps=10, warmup_steps=3)
        twin_schedule = lambda step: schedules.warmup_cosine(step, alpha, 3, 10)  # noqa: E731
        optimizer = make(name, learning_rate=schedule, weight_decay=kaf.Decoupled(0.01), **form)
        twin = twin_of(
            name,
            {
                **form,
                "learning_rate": twin_schedule,
                "initial_learning_rate": alpha,
                "weight_decay": ("decoupled", 0.01),
            },
        )
        ours = trajectory(optimizer, start, gradients, dtype)
        difference = largest_difference(ours, follow(twin, start, gradients))
        scale = 1.0 if dtype == "float64" else max(1.0, alpha * 10)  # steps of lr * g: SGD
        assert difference < TOLERANCE[dtype] * scale

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("compiled", COMPILED[1:])
    def test_compiled_equals_eager(self, name, compiled):
        start, gradients = random_problem()
        eager = trajectory(make(name), start, gradients)
        compiled = trajectory(make(name), start, gradients, compiled=compiled)
        assert largest_difference(eager, compiled) < 1e-6

    def test_adamnc_without_momentum_is_adagrad(self, x64):
        start, gradients = random_problem()
        adamnc = kaf.AdamNC(kaf.InverseSqrt(0.1), beta_1=0.0)
        adagrad = kaf.Adagrad(0.1, epsilon=0.0)
        one, other = (trajectory(o, start, gradients, "float64") for o in (adamnc, adagrad))
        assert largest_difference(one, other) < 1e-14

    def test_adopt_begins_with_a_call_that_only_sets_v(self):
        """The first call moves nothing, the second by lr * (1 - beta_1) at most."""
        start, gradients = random_problem()
        weights = trajectory(kaf.ADOPT(0.1, beta_1=0.75), start, gradients)
        assert largest_difference(weights[0], [w.astype("float32") for w in start]) == 0.0
        assert 0.0 < largest_difference(weights[1], weights[0]) < 0.025 + 1e-6

    def test_adopt_clips_a_gradient_after_zeros(self):
        """v = 0 and epsilon make any gradient huge: (k^(1/4)) bounds it, here k = 2."""
        gradients = [[np.zeros(1)], [np.zeros(1)], [np.ones(1)]]
        weights = trajectory(kaf.ADOPT(1.0), [np.ones(1)], gradients)
        assert abs(weights[-1][0] - (1 - 0.1 * 2**0.25)) < 1e-6

    @pytest.mark.parametrize("schedule", ["dozat", "keras3"])
    def test_nadam_knows_its_momentum_product_at_any_step(self, schedule, x64):
        """The closed form of P_t against the product itself, down to its underflow."""
        from keras_adamfamily.optimizers.nadam import _momentum_product

        exponent = 1.0 if schedule == "keras3" else 0.004
        for beta_1 in (0.9, 0.99, 0.0):
            mu = beta_1 * (1 - 0.5 * 0.96 ** (exponent * np.arange(1, 20001)))
            product = np.cumprod(mu)
            for t in (1, 2, 3, 10, 100, 1000, 20000):
                tensor = ops.convert_to_tensor(float(t), "float64")
                ours = to_numpy(_momentum_product(beta_1, np.log(0.96) * exponent, tensor))
                assert abs(ours - product[t - 1]) < 1e-13


ORACLE_FORMS = [  # our arguments, the library, its arguments
    ("SGD", {"momentum": 0.9, "nesterov": True}, "torch.SGD", {"momentum": 0.9, "nesterov": True}),
    ("Adagrad", {}, "torch.Adagrad", {"lr": 0.01}),
    ("RMSprop", {"epsilon": 1e-8, "epsilon_form": "outside"}, "torch.RMSprop", {"alpha": 0.9}),
    ("Adadelta", {}, "torch.Adadelta", {"rho": 0.95}),
    ("Adam", {}, "torch.Adam", {}),
    ("AMSGrad", {"bias_correction": True, "epsilon": 1e-8}, "torch.Adam", {"amsgrad": True}),
    ("AdamW", {"weight_decay": 0.1}, "torch.AdamW", {"weight_decay": 0.1}),
    ("Adamax", {"epsilon": 1e-8, "epsilon_form": "inside_max"}, "torch.Adamax", {}),
    ("Nadam", {"schedule": "const_ema"}, "torch.NAdam", {}),
    ("SGD", {"momentum": 0.9}, "optax.sgd", {"momentum": 0.9}),
    (
        "Adagrad",
        {"initial_accumulator_value": 0.1, "epsilon": 1e-7, "epsilon_form": "inside"},
        "optax.adagrad",
        {},
    ),
    ("RMSprop", {"epsilon": 1e-8}, "optax.rmsprop", {}),
    ("Adadelta", {}, "optax.adadelta", {"rho": 0.95, "eps": 1e-6}),
    ("Adam", {}, "optax.adam", {}),
    (
        "AMSGrad",
        {"bias_correction": True, "epsilon": 1e-8, "maximum_of": "corrected"},
        "optax.amsgrad",
        {},
    ),
    ("ADOPT", {}, "optax.contrib.adopt", {}),
    ("AdamW", {"weight_decay": 0.1}, "optax.adamw", {"weight_decay": 0.1}),
    ("Adamax", {"epsilon": 1e-8, "epsilon_form": "inside_max"}, "optax.adamax", {}),
    ("Nadam", {"schedule": "simple"}, "optax.nadam", {}),
    ("SGD", {"momentum": 0.9}, "keras.SGD", {"momentum": 0.9}),
    (
        "Adagrad",
        {"initial_accumulator_value": 0.1, "epsilon": 1e-7, "epsilon_form": "inside"},
        "keras.Adagrad",
        {},
    ),
    ("RMSprop", {"momentum": 0.9}, "keras.RMSprop", {"momentum": 0.9}),
    ("Adadelta", {}, "keras.Adadelta", {"epsilon": 1e-6}),
    ("Adam", {"epsilon": 1e-7, "epsilon_form": "hat"}, "keras.Adam", {}),
    (
        "Adam",
        {"epsilon": 1e-7, "epsilon_form": "hat", "amsgrad": True},
        "keras.Adam",
        {"amsgrad": True},
    ),
    ("AdamW", {"epsilon": 1e-7, "epsilon_form": "hat"}, "keras.AdamW", {}),
    ("Adamax", {"epsilon": 1e-7}, "keras.Adamax", {}),
    ("Nadam", {"schedule": "keras3", "epsilon": 1e-7}, "keras.Nadam", {}),
]


def oracle(library, name, arguments, start, gradients, rate):
    if library == "keras":
        other = getattr(keras.optimizers, name)(learning_rate=rate, **arguments)
        return trajectory(other, start, gradients)
    if library == "torch":
        torch = pytest.importorskip("torch")
        weights = [torch.tensor(w, dtype=torch.float32, requires_grad=True) for w in start]
        other = getattr(torch.optim, name)(weights, **{**arguments, "lr": rate})
        path = []
        for grads in gradients:
            for w, g in zip(weights, grads, strict=True):
                w.grad = torch.tensor(g, dtype=torch.float32)
            other.step()
            path.append([w.detach().numpy().astype("float64") for w in weights])
        return path
    optax = pytest.importorskip("optax")
    weights = [np.asarray(w, "float32") for w in start]
    other = operator.attrgetter(name)(optax)(rate, **arguments)
    state, path = other.init(weights), []
    for grads in gradients:
        grads = [np.asarray(g, "float32") for g in grads]
        updates, state = other.update(grads, state, weights)
        weights = optax.apply_updates(weights, updates)
        path.append([np.asarray(w, "float64") for w in weights])
    return path


@pytest.mark.parametrize("ours, form, other, arguments", ORACLE_FORMS)
def test_equals_other_libraries_where_definitions_agree(ours, form, other, arguments):
    start, gradients = random_problem()
    library, _, name = other.partition(".")
    rate = 1.0 if ours == "Adadelta" else 0.01
    theirs = oracle(library, name, arguments, start, gradients, rate)
    path = trajectory(make(ours, learning_rate=rate, **form), start, gradients)
    assert largest_difference(path, theirs) < 2e-6


class TestGradients:
    """Zero, missing, huge, tiny and NaN gradients; scales; sparsity."""

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("epsilon", [None, 0.0])
    def test_zero_gradients_move_nothing(self, name, epsilon):
        arguments = {} if epsilon is None else {"epsilon": epsilon}
        if epsilon is not None and "epsilon" not in registry.find(name).defaults:
            pytest.skip("has no epsilon")
        optimizer = make(name, learning_rate=0.1, weight_decay=kaf.L2(0.0), **arguments)
        start, gradients = random_problem(steps=5)
        weights = trajectory(optimizer, start, [[0 * g for g in grads] for grads in gradients])
        assert largest_difference(weights[-1], [w.astype("float32") for w in start]) == 0.0

    @pytest.mark.parametrize("name", NAMES)
    def test_a_variable_without_gradient_stays_and_the_rest_moves(self, name):
        a, b = variables_of([np.ones(3), np.ones(3)], "float32")
        optimizer = make(name, learning_rate=0.1)
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            for _ in range(2):  # ADOPT's first call moves nothing
                optimizer.apply([None, ops.ones(3)], [a, b])
        assert np.array_equal(to_numpy(a), np.ones(3))
        assert np.all(to_numpy(b) < 1.0)

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("scale", [1e-12, 1e12])
    def test_huge_and_tiny_gradients_stay_finite(self, name, scale):
        if name in ("SGD", "SGDW") and scale > 1:
            pytest.skip("its step is proportional to the gradient")
        start, gradients = random_problem(steps=5)
        gradients = [[scale * g for g in grads] for grads in gradients]
        weights = trajectory(make(name, learning_rate=1e-3), start, gradients)
        assert np.all(np.isfinite(np.concatenate([w.ravel() for w in weights[-1]])))
        assert largest_difference(weights[-1], start) < 0.1

    @pytest.mark.parametrize("name", NAMES)
    def test_nan_stays_where_it_is(self, name):
        """A NaN in one weight's gradient spoils that weight alone."""
        gradient = np.array([0.1, np.nan, -0.2])
        weights = trajectory(make(name, learning_rate=0.1), [np.ones(3)], [[gradient]] * 2)
        assert np.array_equal(np.isnan(weights[-1][0]), [False, True, False])

    @pytest.mark.skipif(BACKEND != "tensorflow", reason="sparse gradients are TensorFlow's")
    @pytest.mark.parametrize("name, form", DEFAULT_FORMS)
    def test_sparse_gradients_with_repeated_rows_equal_dense_ones(self, name, form):
        import tensorflow as tf

        values = np.random.RandomState(0).randn(4, 2).astype("float32")
        rows = [1, 3, 1, 0]
        dense = np.zeros((5, 2), "float32")
        np.add.at(dense, rows, values)
        sparse = tf.IndexedSlices(tf.constant(values), tf.constant(rows), tf.constant([5, 2]))
        results = []
        for gradient in (sparse, tf.constant(dense)):
            for compiled in (False, True):
                (variable,) = variables_of([np.ones((5, 2))], "float32")
                optimizer = make(name, learning_rate=0.1, **form)
                step = Stepper(optimizer, [variable]) if compiled else None
                for _ in range(3):
                    step([gradient]) if compiled else optimizer.apply([gradient], [variable])
                results.append(to_numpy(variable))
        for result in results[1:]:
            assert np.allclose(result, results[0], atol=2e-6)


class TestPrecision:
    """Low-precision variables."""

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_half_precision_weights_follow_the_float64_twin(self, name, dtype):
        start, gradients = random_problem()
        start = [to_numpy(ops.cast(w, dtype)).astype("float64") for w in start]
        gradients = [
            [to_numpy(ops.cast(g, dtype)).astype("float64") for g in grads] for grads in gradients
        ]
        rate = 1.0 if name == "Adadelta" else 0.1
        optimizer = make(name, learning_rate=rate)
        decay = {"SGDW": ("decoupled", 1e-4), "AdamW": ("keras", 0.004), "NAdamW": ("keras", 0.004)}
        twin = twin_of(name, {"learning_rate": rate, "weight_decay": decay.get(name)})
        ours = trajectory(optimizer, start, gradients, dtype)[-1]
        truth = follow(twin, start, gradients)[-1]
        spacing = {"bfloat16": 2.0**-8, "float16": 2.0**-11}[dtype]
        size = max(np.max(np.abs(t)) for t in [*truth, *start])
        # Each step rounds the weight once, to half a spacing at most.
        assert largest_difference(ours, truth) < len(gradients) * spacing * max(size, 1.0)
        assert all(np.any(w != s) for w, s in zip(ours, start, strict=True))
        assert all(
            keras.backend.standardize_dtype(v.dtype) != dtype for v in optimizer.variables
        ), "state and scalars are kept in float32"

    def test_bias_corrections_keep_all_their_digits(self):
        from keras_adamfamily.numerics import one_minus_power

        for beta, t in itertools.product((0.9, 0.999, 0.9999999), (1, 2, 1000, 100000)):
            ours = to_numpy(one_minus_power(beta, ops.convert_to_tensor(float(t), "float32")))
            truth = -np.expm1(t * np.log1p(beta - 1))
            assert abs(ours / truth - 1) < 1e-6


class TestAround:
    """Clipping, accumulation, averages and tunable hyperparameters around the rule."""

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("compiled", COMPILED, ids=["eager", "compiled"])
    def test_accumulation_equals_one_big_batch(self, name, compiled):
        start, gradients = random_problem(steps=12)
        accumulating = make(name, gradient_accumulation_steps=3)
        micro = trajectory(accumulating, start, gradients, compiled=compiled)
        means = [
            [sum(gs) / 3 for gs in zip(*gradients[i : i + 3], strict=True)] for i in (0, 3, 6, 9)
        ]
        big = trajectory(make(name), start, means)
        assert largest_difference(micro[2::3], big) < 2e-6
        assert largest_difference(micro[1], [w.astype("float32") for w in start]) == 0.0

    @pytest.mark.skipif(BACKEND != "jax", reason="JAX differentiates through whole steps")
    @pytest.mark.parametrize("name", NAMES)
    def test_derivatives_go_through_accumulation(self, name):
        """By the learning rate, in reverse and forward: those of as many steps by the means."""
        import jax

        start, gradients = random_problem(steps=6)

        def norm_after(batches, **arguments):
            variables, optimizer = variables_of(start, "float32"), make(name, **arguments)
            optimizer.build(variables)
            is_rate = [v is optimizer._learning_rate for v in optimizer.variables]

            def norm(rate):
                weights, state = ([v.value for v in vs] for vs in (variables, optimizer.variables))
                state[is_rate.index(True)] = rate
                for batch in batches:
                    batch = [ops.convert_to_tensor(g, "float32") for g in batch]
                    weights, state = optimizer.stateless_apply(state, batch, weights)
                return sum(ops.sum(ops.square(w)) for w in weights)

            return norm

        pairs = zip(gradients[::2], gradients[1::2], strict=True)
        means = [[sum(gs) / 2 for gs in zip(*pair, strict=True)] for pair in pairs]
        expected = jax.jit(jax.grad(norm_after(means)))(0.01)
        accumulated = norm_after(gradients, gradient_accumulation_steps=2)
        # Forward, ADOPT's square root of v_0 = 0 has no derivative, though nothing depends on it.
        for derivative in (jax.grad, jax.jacfwd)[: 1 if name == "ADOPT" else 2]:
            found = jax.jit(derivative(accumulated))(0.01)
            assert np.isfinite(expected) and abs(found - expected) <= 1e-4 * abs(expected)

    @pytest.mark.parametrize(
        "arguments, clip",
        [
            ({"clipvalue": 0.5}, lambda gs: [around.clip_value(g, 0.5) for g in gs]),
            ({"clipnorm": 0.5}, lambda gs: [around.clip_norm(g, 0.5) for g in gs]),
            ({"global_clipnorm": 0.5}, lambda gs: around.clip_global_norm(gs, 0.5)),
        ],
    )
    def test_clipping(self, arguments, clip):
        start, gradients = random_problem()
        ours = trajectory(kaf.Adam(0.01, **arguments), start, gradients)
        twin = twin_of("Adam", {"learning_rate": 0.01})
        assert largest_difference(ours, follow(twin, start, [clip(g) for g in gradients])) < 2e-6

    @pytest.mark.parametrize("accumulation", [None, 3])
    def test_averages_advance_once_per_update_of_the_weights(self, accumulation):
        start, gradients = random_problem(steps=12)
        optimizer = kaf.Adam(
            0.01, use_ema=True, ema_momentum=0.9, gradient_accumulation_steps=accumulation
        )
        weights = trajectory(optimizer, start, gradients)
        iterates = [w[0] for w in weights[(accumulation or 1) - 1 :: accumulation or 1]]
        truth = around.average_weights(iterates, 0.9)[-1]
        average = to_numpy(optimizer._model_variables_moving_average[0])
        assert np.max(np.abs(average - truth)) < 1e-6

    def test_averages_work_in_bfloat16(self):
        start, gradients = random_problem(steps=20)
        optimizer = kaf.Adam(0.1, use_ema=True, ema_momentum=0.99)
        weights = trajectory(optimizer, start, gradients, "bfloat16")
        truth = around.average_weights([w[0] for w in weights], 0.99)[-1]
        average = to_numpy(optimizer._model_variables_moving_average[0])
        assert np.max(np.abs(average - truth)) < 1e-5

    @pytest.mark.parametrize("name", NAMES)
    def test_every_float_can_be_tunable(self, name):
        """A tunable hyperparameter computes what the constant does, and may change in training."""
        start, gradients = random_problem()
        optimizer = make(name, weight_decay=kaf.Decoupled(0.01))
        floats = tunables(optimizer)
        tunable = make(name, weight_decay=kaf.Decoupled(0.01), tunable=floats)
        constant = trajectory(optimizer, start, gradients)
        assert largest_difference(trajectory(tunable, start, gradients), constant) < 2e-5
        for n in floats:
            assert tunable.get_config()[n] == optimizer.get_config()[n]

    @pytest.mark.skipif(BACKEND == "torch", reason="PyTorch runs eagerly")
    @pytest.mark.parametrize("name", NAMES)
    def test_nothing_is_traced_twice(self, name):
        """Not on the second step, nor when the rate or a tunable hyperparameter changes."""
        optimizer = make(name, weight_decay=kaf.Decoupled(0.01))
        floats = tunables(optimizer)
        optimizer.make_tunable(*floats)
        variables = variables_of([np.ones((2, 3)), np.ones(3)], "float32")
        step = Stepper(optimizer, variables)
        grads = [ops.ones((2, 3)), ops.ones(3)]
        step(grads)
        step(grads)
        optimizer.learning_rate = 0.5
        step(grads)
        before = to_numpy(variables[0])
        optimizer.weight_decay = 0.5
        for n in floats:
            if n in ("beta_1", "beta_2", "rho", "momentum"):
                setattr(optimizer, n, 0.5)
        step(grads)
        assert step.traces == 1
        assert np.max(np.abs(to_numpy(variables[0]) - before)) > 0.2  # the new decay was used

    def test_setting_an_option_after_build_is_refused(self):
        optimizer = kaf.SGD(0.1, momentum=0.9)
        optimizer.build(variables_of([np.ones(3)], "float32"))
        with pytest.raises(ValueError, match="`nesterov` is fixed once the optimizer is built"):
            optimizer.nesterov = True


class Centralized(kaf.FamilyOptimizer):
    """A rule with a whole-model first pass and model-wide state, for the tests below."""

    scalar_slots = {"largest": 0.0}

    def survey(self, grads, weights, states, c):
        norm = ops.sqrt(sum(ops.sum(g * g) for g in grads))
        largest = ops.maximum(ops.cast(c.largest, "float32"), ops.cast(norm, "float32"))
        return {"norm": largest}, {"largest": largest}

    def update(self, g, w, s, c):
        return c.lr * g / c.norm, {}


@pytest.mark.parametrize("compiled", COMPILED)
def test_whole_model_statistics(compiled):
    start, gradients = random_problem()
    optimizer = Centralized(0.1)
    ours = trajectory(optimizer, start, gradients, compiled=compiled)
    theta, largest = [w.copy() for w in start], 0.0
    for grads in gradients:
        largest = max(largest, np.sqrt(sum(np.sum(g * g) for g in grads)))
        theta = [w - 0.1 * g / largest for w, g in zip(theta, grads, strict=True)]
    assert largest_difference(ours[-1], theta) < 2e-6
    assert abs(to_numpy(optimizer._scalar_state["largest"]) - largest) < 1e-5


IN_JAX = BACKEND == "jax"  # where Keras's LossScaleOptimizer only works compiled


class TestWrappers:
    """Keras's own wrappers, callbacks and entry points."""

    @pytest.mark.parametrize("name", NAMES)
    def test_inside_loss_scaling(self, name):
        start, gradients = random_problem()
        inner = make(name, learning_rate=0.01)
        optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=1024.0)
        scaled = [[1024.0 * g for g in grads] for grads in gradients]
        path = trajectory(optimizer, start, scaled, compiled=IN_JAX)
        assert (
            largest_difference(path, trajectory(make(name, learning_rate=0.01), start, gradients))
            < 1e-6
        )

    def test_loss_scaling_skips_a_step_that_is_not_finite(self):
        optimizer = keras.optimizers.LossScaleOptimizer(kaf.AdamW(0.1), initial_scale=2.0)
        (path,) = trajectory(optimizer, [np.ones(2)], [[np.array([np.inf, 1.0])]], compiled=IN_JAX)
        assert np.array_equal(path[0], np.ones(2))
        assert int(to_numpy(optimizer.inner_optimizer.iterations)) == 0

    def test_inside_multi_optimizer(self):
        start, gradients = random_problem()
        parts = {"w0": kaf.AdamW(0.01), "w1": kaf.SGD(0.1, momentum=0.9)}
        multi = keras.optimizers.MultiOptimizer(
            keras.optimizers.OptimizerMap(default_optimizer=kaf.Adam(), optimizer_map=parts)
        )
        path = trajectory(multi, start, gradients)
        alone = [
            trajectory(kaf.AdamW(0.01), start[:1], [g[:1] for g in gradients]),
            trajectory(kaf.SGD(0.1, momentum=0.9), start[1:], [g[1:] for g in gradients]),
        ]
        for i in range(2):
            ours = [weights[i] for weights in path]
            assert largest_difference(ours, [weights[0] for weights in alone[i]]) == 0.0

    def test_update_step_updates_one_variable_by_rule_and_decay(self):
        start, gradients = random_problem(steps=1)
        optimizer = kaf.AdamW(0.01, weight_decay=kaf.Decoupled(0.1))
        (variable,) = variables_of(start[:1], "float32")
        optimizer.build([variable])
        optimizer.update_step(ops.convert_to_tensor(gradients[0][0], "float32"), variable, 0.01)
        twin = twin_of("AdamW", {"learning_rate": 0.01, "weight_decay": ("decoupled", 0.1)})
        assert np.allclose(to_numpy(variable), follow(twin, start, gradients)[0][0], atol=2e-6)

    def test_constraints_apply_after_the_step(self):
        (variable,) = variables_of([np.ones(3)], "float32")
        variable.constraint = keras.constraints.NonNeg()
        kaf.SGD(10.0).apply([ops.ones(3)], [variable])
        assert np.array_equal(to_numpy(variable), np.zeros(3))


class TestOptima:
    """Each finds the minimum of a quadratic and of Rosenbrock's function, at its own rate."""

    RATES = {"SGD": 1e-3, "SGDW": 1e-3, "Adagrad": 0.5, "Adadelta": 1.0}

    @pytest.mark.slow
    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("problem", ["quadratic", "rosenbrock"])
    def test_reaches_the_optimum(self, name, problem):
        def gradient(x):
            if problem == "quadratic":
                return np.array([2.0, 20.0]) * (x - np.array([1.0, 1.0]))
            a, b = x
            return np.array([-2 * (1 - a) - 400 * a * (b - a * a), 200 * (b - a * a)])

        rate = kaf.WarmupCosine(self.RATES.get(name, 1e-2), total_steps=20_000)
        optimizer = make(name, learning_rate=rate, weight_decay=kaf.L2(0.0))
        (variable,) = variables_of([np.zeros(2)], "float32")
        step = Stepper(optimizer, [variable])
        for _ in range(20_000):
            g = gradient(to_numpy(variable).astype("float64"))
            step([ops.convert_to_tensor(g, "float32")])
        assert np.max(np.abs(to_numpy(variable) - 1.0)) < 3e-2
