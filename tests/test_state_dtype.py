"""State in bfloat16, and squares in a byte: right on average, and the same after a resume."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_adamfamily as kaf
from keras_adamfamily.numerics import hashed, round_to_bfloat16, to_float8, widened
from tests.steps import (
    BACKEND,
    largest_difference,
    random_problem,
    to_numpy,
    trajectory,
    variables_of,
)

NARROW = ("bfloat16", "mixed_float8")


def rounded(x, salt, keys=None, function=round_to_bfloat16):
    keys = np.linspace(-1, 1, np.size(x)) if keys is None else keys
    x, keys = (ops.convert_to_tensor(np.asarray(a, "float32")) for a in (x, keys))
    return ops.convert_to_numpy(function(x, keys, ops.convert_to_tensor(salt, "int32")))


def in_a_byte(x, salt, keys=None):
    return rounded(
        x, salt, keys, lambda *arguments: widened(ops.cast(to_float8(*arguments), "uint8"))
    )


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


class TestByte:
    """Each test against the numbers that there are: 0, (4 + k) / 4 * 2^e for k from 0 to 3, 2^9."""

    def numbers(self):
        exponents, quarters = np.meshgrid(np.arange(-54, 9), np.arange(4), indexing="ij")
        numbers = ((4 + quarters) / 4 * 2.0**exponents).ravel()
        return np.concatenate([[0.0], numbers, [2.0**9, np.inf, np.nan]])

    def test_the_numbers_that_there_are(self):
        codes = ops.convert_to_tensor(np.arange(256), "uint8")
        held = ops.convert_to_numpy(widened(codes))
        assert np.array_equal(held, self.numbers(), equal_nan=True)
        for salt in range(8):
            assert np.array_equal(in_a_byte(held, salt), held, equal_nan=True)

    def test_to_one_of_the_two_neighbours(self):
        numbers = self.numbers()[1:-2]
        x = np.exp(np.random.RandomState(0).uniform(*np.log(numbers[[0, -1]]), 10_000))
        above = np.searchsorted(numbers, np.float32(x), side="right")
        y = in_a_byte(x, 1)
        assert ((y == numbers[above - 1]) | (y == numbers[above])).all()
        assert 0.3 < (y == numbers[above]).mean() < 0.7

    @pytest.mark.parametrize("value", [1.001, 3e-9, 1.24, 0.0625 + 2.0**-19])
    def test_is_right_on_average(self, value):
        """Over elements, and over steps: 16 random bits can only miss a chance by 2^-17."""
        ulp = 2.0 ** (np.floor(np.log2(value)) - 2)
        chance = value / ulp % 1.0
        for n, mean in (
            (100_000, in_a_byte(np.full(100_000, value), 7).astype("float64").mean()),
            (1000, in_a_byte(np.full(1000, value), np.arange(1000), np.full(1000, -0.5)).mean()),
        ):
            error = np.sqrt(chance * (1 - chance) / n)
            assert abs(mean - value) / ulp < 4 * error + 2.0**-17

    def test_nothing_small_becomes_0_and_nothing_large_infinite(self):
        x = np.array([0.0, 1e-45, 1e-30, 2.0**-55, 600.0, 3e38, np.inf, np.nan], "float32")
        least, most = 2.0**-54, 2.0**9
        found = in_a_byte(x, 3)
        assert found[1] in (0.0, least)  # where numbers as small as this are taken for 0
        wanted = [0, least, least, most, most, np.inf, np.nan]
        assert np.array_equal(found[[0, *range(2, 8)]], wanted, equal_nan=True)


BYTES = {"float32": 4, "bfloat16": 2, "uint8": 1}
#: Slots that `mixed_float8` holds in a byte.
IN_A_BYTE = {
    "Adadelta": {"accumulated_gradient", "accumulated_step"},
    **dict.fromkeys(["RMSprop", "Adam", "AdamW", "AdamNC", "Nadam", "NAdamW"], {"velocity"}),
    **dict.fromkeys(["ADOPT", "SWATS", "NDAdam"], {"velocity"}),
}


@pytest.mark.parametrize("name", kaf.names())
@pytest.mark.parametrize("state_dtype", NARROW)
def test_memory_by_dtype(name, state_dtype):
    """Half or less for every slot of the variable's shape; averages and sums keep 4 bytes."""
    variables = variables_of([np.ones((8, 4)), np.ones(6)], "float32")

    def held(**arguments):
        optimizer = kaf.get(name).__class__(**arguments)
        optimizer.build(variables)
        slots = [pair for s in optimizer._states for pair in s.items()]
        return [
            (name, tuple(v.shape), BYTES[keras.backend.standardize_dtype(v.dtype)])
            for name, v in slots
        ]

    for (slot, shape, wide), (_, same, narrow) in zip(
        held(), held(state_dtype=state_dtype), strict=True
    ):
        assert shape == same and wide == 4
        is_byte = state_dtype == "mixed_float8" and slot in IN_A_BYTE.get(name, ())
        assert narrow == ((1 if is_byte else 2) if shape in ((8, 4), (6,)) else 4)


def test_what_is_compared_or_subtracted_is_not_held_in_a_byte():
    """The largest of many rounded ones would be too large, and a difference of two negative."""
    (variable,) = variables_of([np.ones((8, 4))], "float32")
    for optimizer in (
        kaf.AMSGrad(state_dtype="mixed_float8"),
        kaf.Adam(amsgrad=True, state_dtype="mixed_float8"),
        kaf.RMSprop(centered=True, state_dtype="mixed_float8"),
    ):
        optimizer.build([variable])
        assert {slot.dtype for slot in optimizer._states[0].values()} == {"bfloat16"}


@pytest.mark.parametrize("name", kaf.names())
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("state_dtype, bound", [("bfloat16", 0.05), ("mixed_float8", 0.2)])
def test_every_rule_stays_near_its_float32_path(name, compiled, state_dtype, bound):
    """Relative errors of 2^-8 in the state, in 12 steps of 0.01; but not the same path.

    Of a byte's 2^-2 the root has half, and the largest of all elements some of that.
    """
    if compiled and name not in ("Adam", "AMSGrad", "SWATS", "SGD"):
        pytest.skip("one of each kind is enough to compile")
    start, gradients = random_problem()
    cls = kaf.get(name).__class__
    wide = trajectory(cls(0.01), start, gradients, compiled=compiled)
    keras.utils.set_random_seed(0)
    narrow = trajectory(cls(0.01, state_dtype=state_dtype), start, gradients, compiled=compiled)
    moved = largest_difference(wide[-1], [w.astype("float32") for w in start])
    assert largest_difference(narrow, wide) < bound * moved
    if cls(0.01).slots:
        assert largest_difference(narrow, wide) > 0.0


@pytest.mark.parametrize("state_dtype, bound", [("bfloat16", 2e-3), ("mixed_float8", 4 * 0.005)])
def test_what_is_too_small_for_its_type_counts_on_average(state_dtype, bound):
    """v = 0.999 v + 0.001 g^2 moves by less than half of the spacing near its limit.

    In a byte an element is off by up to 0.3, and the mean of 4000 by 0.005.
    """
    keras.utils.set_random_seed(0)
    (variable,) = variables_of([np.random.RandomState(0).randn(4000)], "float32")
    optimizer = kaf.RMSprop(1e-3, rho=0.999, state_dtype=state_dtype)
    gradient = 1 + np.random.RandomState(1).uniform(-0.01, 0.01, 4000).astype("float32")
    for _ in range(400):
        optimizer.apply([ops.convert_to_tensor(gradient)], [variable])
    velocity = to_numpy(widened(ops.convert_to_tensor(optimizer.variables[-1]))).astype("float64")
    limit = np.mean(gradient.astype("float64") ** 2)
    assert velocity.std() / velocity.mean() < 0.3
    assert abs(velocity.mean() / (limit * (1 - 0.999**400)) - 1) < bound


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.IndexedSlices")
@pytest.mark.parametrize(
    "make, spacing",
    [
        (lambda: kaf.Adagrad(0.1, state_dtype="bfloat16"), 2.0**-7),
        (lambda: kaf.RMSprop(0.05, rho=0.75, state_dtype="mixed_float8"), 2.0**-2),
    ],
)
def test_a_sparse_gradient(make, spacing):
    """The other rows' state is a number of its type already, and stays as it is."""
    import tensorflow as tf

    (table,) = variables_of([np.ones((5, 2))], "float32")
    optimizer = make()
    values, rows = tf.fill([3, 2], 1.3), tf.constant([1, 1, 3])
    optimizer.apply([tf.IndexedSlices(values, rows, tf.constant([5, 2]))], [table])
    assert np.allclose(to_numpy(table)[[1, 3]], 0.9, atol=1e-3)
    assert (to_numpy(table)[[0, 2, 4]] == 1.0).all()
    held = to_numpy(widened(ops.convert_to_tensor(optimizer.variables[-1]))).astype("float64")
    share = 1.0 if isinstance(optimizer, kaf.Adagrad) else 0.25
    squares = np.array([[2.6**2] * 2, [1.3**2] * 2])
    assert np.allclose(held[[1, 3]], share * squares, rtol=spacing)
    assert (held[[0, 2, 4]] == 0.0).all()


@pytest.mark.parametrize("state_dtype", NARROW)
def test_it_is_saved_and_resumes_bit_for_bit(state_dtype, tmp_path):
    random = np.random.RandomState(0)
    x, y = random.randn(32, 3), random.randn(32, 1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    model.compile(kaf.AdamW(0.01, state_dtype=state_dtype), "mse")
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    keras.utils.set_random_seed(1)
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.optimizer.state_dtype == state_dtype
    for one in (model, again):
        one.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    pairs = zip(
        model.weights + model.optimizer.variables,
        again.weights + again.optimizer.variables,
        strict=True,
    )
    for one, other in pairs:
        assert np.array_equal(to_numpy(one), to_numpy(other))


def test_state_in_another_code_is_not_loaded(tmp_path):
    """The numbers of the code would be taken for the state's."""

    def trained(state_dtype):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
        model.compile(kaf.AdamW(0.01, state_dtype=state_dtype), "mse")
        model.fit(np.ones((8, 3)), np.ones((8, 4)), verbose=0)
        return model

    for one, other in (NARROW, NARROW[::-1]):
        trained(one).save_weights(tmp_path / "model.weights.h5")
        with pytest.raises(ValueError, match="Build the optimizer with the `state_dtype` that it"):
            trained(other).load_weights(tmp_path / "model.weights.h5")


def test_float64_keeps_its_state(x64):
    start, gradients = random_problem(steps=3)
    wide, *narrow = (
        trajectory(kaf.Adam(0.1, state_dtype=dtype), start, gradients, "float64")
        for dtype in ("float32", *NARROW)
    )
    for each in narrow:
        assert largest_difference(wide, each) == 0.0


@pytest.mark.parametrize("value", ["float16", "float64", None, 16])
def test_what_it_may_be(value):
    with pytest.raises(
        ValueError, match="`state_dtype` must be one of 'float32', 'bfloat16', 'mixed"
    ):
        kaf.Adam(state_dtype=value)


@pytest.mark.parametrize("state_dtype, held", [("bfloat16", "bfloat16"), ("mixed_float8", "uint8")])
def test_the_state_of_a_scalar_is_not_rounded(state_dtype, held):
    """It costs nothing, and of SWATS it is the step of the switch."""
    variables = variables_of([1.0, np.ones(2)], "float32")
    optimizer = kaf.SWATS(scope="variable", state_dtype=state_dtype)
    optimizer.build(variables)
    dtypes = [{name: slot.dtype for name, slot in of.items()} for of in optimizer._states]
    assert set(dtypes[0].values()) == {"float32"} == {dtypes[1]["switch_step"]}
    assert (dtypes[1]["momentum"], dtypes[1]["velocity"]) == ("bfloat16", held)


@pytest.mark.parametrize("name", kaf.names())
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("state_dtype", NARROW)
def test_scalars_are_updated_as_with_float32(name, compiled, state_dtype):
    """Beside a vector, whose path differs."""
    if compiled and name not in ("Adam", "RMSprop", "ADOPT"):
        pytest.skip("some are enough to compile")
    if name == "SWATS":
        pytest.skip("its switch follows from sums over vectors too")
    random = np.random.RandomState(0)
    start = [random.randn(), random.randn(3), random.randn()]
    gradients = [[0.1 * random.randn(*np.shape(w)) for w in start] for _ in range(8)]
    cls = kaf.get(name).__class__
    wide, narrow = (
        trajectory(cls(0.01, state_dtype=dtype), start, gradients, compiled=compiled)
        for dtype in ("float32", state_dtype)
    )
    for step, same in zip(narrow, wide, strict=True):
        assert np.allclose(step[0], same[0], rtol=3e-7) and np.allclose(step[2], same[2], rtol=3e-7)
