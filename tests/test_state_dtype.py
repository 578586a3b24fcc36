"""State in bfloat16: half the memory, right on average, and the same again after a resume."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_adamfamily as kaf
from keras_adamfamily.numerics import hashed, round_to_bfloat16
from tests.steps import (
    BACKEND,
    largest_difference,
    random_problem,
    to_numpy,
    trajectory,
    variables_of,
)


def rounded(x, salt, keys=None):
    keys = np.linspace(-1, 1, np.size(x)) if keys is None else keys
    x, keys = (ops.convert_to_tensor(np.asarray(a, "float32")) for a in (x, keys))
    return ops.convert_to_numpy(round_to_bfloat16(x, keys, ops.convert_to_tensor(salt, "int32")))


class TestRounding:
    def test_to_one_of_the_two_neighbours(self):
        scales = 10.0 ** np.linspace(-30, 30, 10_000)
        x = (scales * np.random.RandomState(0).randn(10_000)).astype("float32")
        y = rounded(x, 1)
        assert not (y.view("int32") & 0xFFFF).any()
        below = (x.view("int32") & -0x10000).view("float32")
        above = ((x.view("int32") & -0x10000) + 0x10000).view("float32")
        assert ((y == below) | (y == above)).all()
        exact = np.array([0.0, -0.0, 1.0, -2.5, np.inf, -np.inf, np.nan], "float32")
        assert np.array_equal(rounded(exact, 1).view("int32"), exact.view("int32"))

    @pytest.mark.parametrize("value", [1.001, -1.001, 3e-5, 1.0 + 2.0**-15])
    def test_is_right_on_average(self, value):
        """Over elements, and over steps: a mean of n has a standard error below ulp / 2 sqrt(n)."""
        n, ulp = 10_000, np.abs(value) * 2.0**-7
        over_elements = rounded(np.full(n, value), 7).astype("float64")
        of_one = np.full(1000, value), np.arange(1000), np.full(1000, -0.5)
        over_steps = rounded(*of_one).astype("float64")
        value = float(np.float32(value))
        assert abs(over_elements.mean() - value) < 4 * ulp / 2 / np.sqrt(n)
        assert abs(over_steps.mean() - value) < 4 * ulp / 2 / np.sqrt(1000)
        assert len(set(over_elements)) == len(set(over_steps)) == 2 or value == 1.0 + 2.0**-15

    def test_steps_and_elements_round_independently(self):
        x = np.full((40, 2500), 1.0 + 2.0**-8)
        ups = np.array([rounded(row, k) > 1.0 for k, row in enumerate(x)])
        correlations = np.corrcoef(ups) - np.eye(40)
        assert abs(ups.mean() - 0.5) < 4 * 0.5 / np.sqrt(ups.size)
        assert np.abs(correlations).max() < 5 / np.sqrt(2500)
        assert np.abs(np.corrcoef(ups[:, :-1].ravel(), ups[:, 1:].ravel())[0, 1]) < 4 / np.sqrt(1e5)

    def test_each_bit_of_the_hash_depends_on_each_of_the_number(self):
        x = np.random.RandomState(0).randint(-(2**31), 2**31, 4000, "int64").astype("int32")

        def hash_of(a):
            return ops.convert_to_numpy(hashed(ops.convert_to_tensor(a, "int32")))

        for bit in range(32):
            flipped = x ^ np.array(1 << bit, "uint32").view("int32")
            changed = (hash_of(x) ^ hash_of(flipped)).view("uint32")
            for other in range(16):
                assert 0.35 < ((changed >> other) & 1).mean() < 0.65


@pytest.mark.parametrize("name", kaf.names())
def test_memory_by_dtype(name):
    """Half for every slot of the variable's shape; averages and sums keep their 4 bytes."""
    variables = variables_of([np.ones((8, 4)), np.ones(6)], "float32")

    def held(**arguments):
        optimizer = kaf.get(name).__class__(**arguments)
        optimizer.build(variables)
        sizes = {"float32": 4, "bfloat16": 2}
        slots = [v for s in optimizer._states for v in s.values()]
        return [(tuple(v.shape), sizes[keras.backend.standardize_dtype(v.dtype)]) for v in slots]

    for (shape, wide), (same, narrow) in zip(held(), held(state_dtype="bfloat16"), strict=True):
        assert shape == same and wide == 4
        assert narrow == (2 if shape in ((8, 4), (6,)) else 4)


@pytest.mark.parametrize("name", kaf.names())
@pytest.mark.parametrize("compiled", [False, True])
def test_every_rule_stays_near_its_float32_path(name, compiled):
    """Relative errors of 2^-8 in the state, in 12 steps of 0.01; but not the same path."""
    if compiled and name not in ("Adam", "AMSGrad", "SWATS", "SGD"):
        pytest.skip("one of each kind is enough to compile")
    start, gradients = random_problem()
    cls = kaf.get(name).__class__
    wide = trajectory(cls(0.01), start, gradients, compiled=compiled)
    keras.utils.set_random_seed(0)
    narrow = trajectory(cls(0.01, state_dtype="bfloat16"), start, gradients, compiled=compiled)
    moved = largest_difference(wide[-1], [w.astype("float32") for w in start])
    assert largest_difference(narrow, wide) < 0.05 * moved
    if cls(0.01).slots:
        assert largest_difference(narrow, wide) > 0.0


def test_what_is_too_small_for_bfloat16_counts_on_average():
    """v = 0.999 v + 0.001 g^2 moves by less than half of bfloat16's spacing near its limit."""
    keras.utils.set_random_seed(0)
    (variable,) = variables_of([np.random.RandomState(0).randn(4000)], "float32")
    optimizer = kaf.RMSprop(1e-3, rho=0.999, state_dtype="bfloat16")
    gradient = 1 + np.random.RandomState(1).uniform(-0.01, 0.01, 4000).astype("float32")
    for _ in range(400):
        optimizer.apply([ops.convert_to_tensor(gradient)], [variable])
    velocity = to_numpy(optimizer.variables[-1]).astype("float64")
    limit = np.mean(gradient.astype("float64") ** 2)
    assert abs(velocity.mean() / (limit * (1 - 0.999**400)) - 1) < 2e-3


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.IndexedSlices")
def test_a_sparse_gradient():
    """The other rows' state is a bfloat16 number already, and stays as it is."""
    import tensorflow as tf

    (table,) = variables_of([np.ones((5, 2))], "float32")
    optimizer = kaf.Adagrad(0.1, state_dtype="bfloat16")
    values, rows = tf.fill([3, 2], 1.3), tf.constant([1, 1, 3])
    optimizer.apply([tf.IndexedSlices(values, rows, tf.constant([5, 2]))], [table])
    assert np.allclose(to_numpy(table)[[1, 3]], 0.9, atol=1e-3)
    assert (to_numpy(table)[[0, 2, 4]] == 1.0).all()
    sums = to_numpy(optimizer.variables[-1]).astype("float64")
    assert np.allclose(sums[[1, 3]], [[2.6**2] * 2, [1.3**2] * 2], rtol=2.0**-7)
    assert (sums[[0, 2, 4]] == 0.0).all()


def test_it_is_saved_and_resumes_bit_for_bit(tmp_path):
    random = np.random.RandomState(0)
    x, y = random.randn(32, 3), random.randn(32, 1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    model.compile(kaf.AdamW(0.01, state_dtype="bfloat16"), "mse")
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    keras.utils.set_random_seed(1)
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.optimizer.state_dtype == "bfloat16"
    for one in (model, again):
        one.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    pairs = zip(
        model.weights + model.optimizer.variables,
        again.weights + again.optimizer.variables,
        strict=True,
    )
    for one, other in pairs:
        assert np.array_equal(to_numpy(one), to_numpy(other))


def test_float64_keeps_its_state(x64):
    start, gradients = random_problem(steps=3)
    wide, narrow = (
        trajectory(kaf.Adam(0.1, state_dtype=dtype), start, gradients, "float64")
        for dtype in ("float32", "bfloat16")
    )
    assert largest_difference(wide, narrow) == 0.0


@pytest.mark.parametrize("value", ["float16", "float64", None, 16])
def test_what_it_may_be(value):
    with pytest.raises(ValueError, match="`state_dtype` must be one of 'float32', 'bfloat16'"):
        kaf.Adam(state_dtype=value)


def test_the_state_of_a_scalar_is_not_rounded():
    """It costs nothing, and of SWATS it is the step of the switch."""
    variables = variables_of([1.0, np.ones(2)], "float32")
    optimizer = kaf.SWATS(scope="variable", state_dtype="bfloat16")
    optimizer.build(variables)
    dtypes = [{name: slot.dtype for name, slot in of.items()} for of in optimizer._states]
    assert set(dtypes[0].values()) == {"float32"} == {dtypes[1]["switch_step"]}
    assert dtypes[1]["momentum"] == "bfloat16"
