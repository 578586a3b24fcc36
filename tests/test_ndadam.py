"""ND-Adam's own: the paper's numbers, unit vectors whatever happens to them, angles, directions."""

import contextlib

import keras
import numpy as np
import pytest
from keras import ops

import keras_adamfamily as kaf
from tests.reference import around
from tests.steps import BACKEND, Stepper, largest_difference, to_numpy, trajectory, variables_of
from tests.test_all_optimizers import follow, twin_of

KERNEL = [[0.6, -0.2, 0.3], [0.8, 0.5, -0.4]]  # two inputs, three units; the first has length 1
GRADIENTS = [
    [[0.1, -0.3, 0.2], [-0.2, 0.4, 0.1]],
    [[-0.1, 0.2, 0.3], [0.3, -0.1, 0.2]],
    [[0.2, 0.1, -0.1], [0.1, 0.2, -0.3]],
]


def lengths(weight, axes=0):
    return np.sqrt(np.sum(np.square(weight.astype("float64")), axis=axes))


def nd_adam(rate=0.001, **arguments):
    """On the table's variables, of which w0 holds vectors along its first axis."""
    return kaf.NDAdam(rate, **{"vectors": {"w0": 0}, **arguments})


def steps(optimizer, start, gradients, dtype="float32"):
    """The path of one variable."""
    path = trajectory(optimizer, [np.asarray(start)], [[np.asarray(g)] for g in gradients], dtype)
    return [weights for (weights,) in path]


#: To the last bit; on PyTorch Adam has a fused kernel, which rounds each step in another order.
LIKE_ADAM = len(GRADIENTS) * 2.0**-24 if BACKEND == "torch" else 0.0


class TestNumbers:
    def test_three_steps_on_a_matrix(self, x64):
        optimizer = nd_adam()
        path = steps(optimizer, KERNEL, GRADIENTS, "float64")
        first = [
            [0.5593013118, -0.3245613969, 0.5593013117],
            [0.8289644400, 0.9458646307, -0.8289644400],
        ]
        third = [
            [0.5626299343, -0.3541603375, 0.5032504105],
            [0.8267088708, 0.9351847172, -0.8641406276],
        ]
        assert np.max(np.abs(path[0] - first)) < 1e-9
        assert np.max(np.abs(path[2] - third)) < 1e-9
        velocity = to_numpy(optimizer._states[0]["velocity"])
        assert velocity.shape == (1, 3)
        expected = [1.1442091667e-4, 6.720210678e-5, 2.3621310165e-4]
        assert np.max(np.abs(velocity - expected)) < 1e-13

    def test_the_momentum_is_not_projected_again(self, x64):
        optimizer = nd_adam()
        last = steps(optimizer, KERNEL, GRADIENTS, "float64")[-1]
        radial = np.sum(to_numpy(optimizer._states[0]["momentum"]) * last, axis=0)
        assert np.all(np.abs(radial) > 5e-4)

    def test_the_first_step_of_the_authors_code(self, x64):
        """Without normalization its projection is wrong but for the column of length 1."""
        (first,) = steps(nd_adam(normalize_on_build=False), KERNEL, GRADIENTS[:1], "float64")
        expected = [
            [0.5593013118, -0.3376997121, 0.5170464352],
            [0.8289644400, 0.9412539001, -0.8559573493],
        ]
        assert np.max(np.abs(first - expected)) < 1e-9

    def test_everything_else_is_plain_adam(self):
        start, gradients = np.asarray(KERNEL), GRADIENTS
        for name in ("w0", "bias", "embeddings", "gamma"):
            weights = []
            for optimizer in (kaf.NDAdam(0.1), kaf.Adam(0.1)):
                variable = keras.Variable(start, dtype="float32", name=name)
                for g in gradients:
                    optimizer.apply([ops.convert_to_tensor(g, "float32")], [variable])
                weights.append(to_numpy(variable))
            assert largest_difference(*weights) <= LIKE_ADAM

    def test_clipping_comes_before_the_projection(self):
        ours = steps(nd_adam(0.01, clipnorm=0.1, epsilon=0.1), KERNEL, GRADIENTS)
        clipped = [[around.clip_norm(np.asarray(g), 0.1)] for g in GRADIENTS]
        twin = twin_of("NDAdam", {"learning_rate": 0.01, "vectors": {"w0": 0}, "epsilon": 0.1})
        truth = follow(twin, [np.asarray(KERNEL)], clipped)
        assert largest_difference(ours, [weights for (weights,) in truth]) < 2e-6


class TestLengths:
    @pytest.mark.parametrize(
        ("shape", "axes"), [((4, 3), 0), ((2, 2, 3, 4), [0, 1, 2]), ((2, 3, 4), [-1, 0]), ((5,), 0)]
    )
    def test_are_one_after_every_step(self, shape, axes):
        random = np.random.RandomState(0)
        gradients = 10.0 ** random.uniform(-6, 3, size=20)[:, None] * random.randn(20, 60)[:, :1]
        gradients = gradients.reshape(20, *[1] * len(shape)) * random.randn(20, *shape)
        path = steps(nd_adam(0.01, vectors={"w0": axes}), random.randn(*shape), gradients)
        summed = axes if isinstance(axes, int) else tuple(axes)
        assert max(np.max(np.abs(lengths(w, summed) - 1)) for w in path) < 5e-7

    @pytest.mark.slow
    def test_are_one_after_ten_thousand_float32_steps(self):
        random = np.random.RandomState(0)
        variables = variables_of([random.randn(64, 16)], "float32")
        optimizer = nd_adam(0.001)
        step = Stepper(optimizer, variables)
        largest = 0.0
        for t in range(10_000):
            step([ops.convert_to_tensor(random.randn(64, 16), "float32")])
            if t % 100 == 99:
                largest = max(largest, np.max(np.abs(lengths(to_numpy(variables[0])) - 1)))
        assert largest < 1e-6

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_are_one_up_to_rounding_in_half_precision(self, dtype):
        random = np.random.RandomState(0)
        start, gradients = random.randn(64, 3), random.randn(50, 64, 3)
        optimizer = nd_adam()
        path = steps(optimizer, start, gradients, dtype)
        spacing = {"bfloat16": 2.0**-8, "float16": 2.0**-11}[dtype]
        assert max(np.max(np.abs(lengths(w) - 1)) for w in path) < spacing
        twin = twin_of("NDAdam", {"vectors": {"w0": 0}})
        truth = follow(twin, [start], [[g] for g in gradients])[-1][0]
        # Half a spacing of an element of about 1/8, at each step
        assert np.max(np.abs(path[-1] - truth)) < len(gradients) * spacing / 8
        assert keras.backend.standardize_dtype(optimizer._states[0]["velocity"].dtype) == "float32"

    def test_a_vector_of_zeros_waits_for_its_gradient(self):
        start = [[0.0, 3.0], [0.0, 4.0]]
        nothing, some = np.zeros((2, 2)), [[0.3, 0.0], [-0.4, 0.0]]
        for epsilon in (0.0, 1e-8):
            for normalize in (True, False):
                optimizer = nd_adam(epsilon=epsilon, normalize_on_build=normalize)
                still, moved = steps(optimizer, start, [nothing, some])
                assert np.allclose(still, [[0, 0.6], [0, 0.8]], atol=1e-7)
                assert np.allclose(moved, [[-0.6, 0.6], [0.8, 0.8]], atol=1e-6)

    def test_a_nan_spoils_its_own_vector_alone(self):
        gradient = np.array([[0.1, np.nan], [0.2, 0.1]])
        (weights,) = steps(nd_adam(), [[1.0, 2.0], [3.0, 4.0]], [gradient])
        assert np.array_equal(np.isnan(weights), [[False, True], [False, True]])

    @pytest.mark.parametrize("every", [None, 2])
    def test_averages_that_replace_the_weights_have_length_one(self, every):
        random = np.random.RandomState(0)
        optimizer = nd_adam(0.01, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=every)
        variables = variables_of([random.randn(4, 3)], "float32")
        for g in random.randn(10, 4, 3):
            optimizer.apply([ops.convert_to_tensor(g, "float32")], variables)
        average = to_numpy(optimizer._model_variables_moving_average[0])
        assert np.all(lengths(average) < 1 - 1e-3)
        if not every:
            optimizer.finalize_variable_values(variables)
        replaced = to_numpy(variables[0])
        assert np.allclose(lengths(replaced), 1, atol=1e-6)
        assert np.allclose(replaced, average / lengths(average), atol=1e-6)


class TestAngles:
    @pytest.mark.parametrize("alpha", [1e-3, 0.05, 1.0])
    def test_the_first_step_turns_by_the_angle_that_was_asked_for(self, alpha, x64):
        """A tangent of length alpha_v turns a unit vector by atan(alpha_v), whatever its size."""
        random = np.random.RandomState(0)
        for size in (3, 300):
            start = random.randn(size, 5)
            optimizer = nd_adam(alpha / 50, epsilon=0.0)
            (moved,) = steps(optimizer, start, [random.randn(size, 5)], "float64")
            cosine = np.sum(moved * start / lengths(start), axis=0)
            assert np.allclose(np.arccos(cosine), np.arctan(alpha), rtol=1e-6)

    def test_relative_steps_are_proportional_to_alpha_and_blind_to_everything_else(self, x64):
        """Also to the scales of gradients and initial weights, which SGD and its decay are not."""
        random = np.random.RandomState(0)
        start, gradients = random.randn(30, 4), random.randn(40, 30, 4)

        def relative(rate, weights=1.0, scale=1.0):
            optimizer = nd_adam(rate, epsilon=0.0, weight_decay=kaf.Decoupled(0.5))
            path = steps(optimizer, weights * start, scale * gradients, "float64")
            return np.array([lengths(b - a) for a, b in zip(path, path[1:], strict=False)])

        one = relative(1e-5)
        assert np.allclose(relative(2e-5) / one, 2, rtol=1e-3)
        assert np.allclose(relative(1e-5, weights=7.0, scale=1e-3), one, rtol=1e-9)

    def test_one_learning_rate_moves_both_rates(self):
        start = [np.asarray(KERNEL), np.ones(3)]
        gradients = [[np.asarray(g), np.ones(3)] for g in GRADIENTS]
        schedule = kaf.WarmupCosine(0.01, total_steps=10, warmup_steps=2)
        fast = trajectory(nd_adam(0.01, vector_multiplier=5.0), start, gradients[:1])
        slow = trajectory(nd_adam(schedule, vector_multiplier=10.0), start, gradients[:1])
        assert np.allclose(fast[0][0], slow[0][0], atol=1e-7)  # 5 * 0.01 = 10 * 0.005
        assert np.allclose(1 - fast[0][1], 2 * (1 - slow[0][1]), atol=1e-7)
        variables = variables_of(start, "float32")
        optimizer = nd_adam(0.01)
        for rate in (0.01, 0.0):
            optimizer.learning_rate = rate  # as ReduceLROnPlateau does
            before = [to_numpy(v) for v in variables]
            optimizer.apply([ops.convert_to_tensor(g, "float32") for g in gradients[0]], variables)
            moved = [
                np.max(np.abs(to_numpy(v) - b)) for v, b in zip(variables, before, strict=True)
            ]
            assert min(moved) > 1e-3 if rate else max(moved) < 1e-6


class TestDirections:
    """The paper's point: updates stay within what the unit has seen, which Adam's do not."""

    def residuals(self, optimizer):
        """The largest part of an update outside the span of gradients (and of gradients and w_0),
        relative to the update."""
        random = np.random.RandomState(0)
        start, gradients = random.randn(20, 1), random.randn(6, 20, 1)
        path = [start / lengths(start), *steps(optimizer, start, gradients, "float64")]
        outside = []
        for t in range(1, 6):
            update = path[t + 1] - path[t]
            row = []
            for seen in (gradients[: t + 1], [*gradients[: t + 1], start]):
                basis = np.linalg.qr(np.hstack(list(seen)))[0]
                row.append(np.linalg.norm(update - basis @ (basis.T @ update)))
            outside.append(np.array(row) / np.linalg.norm(update))
        return np.max(outside, axis=0), np.min(outside, axis=0)

    def test_nd_adam_stays_within_gradients_and_its_vector(self, x64):
        (_, most), (least, _) = self.residuals(nd_adam())
        assert most < 1e-12 < 1e-3 < least

    def test_sgd_stays_within_gradients(self, x64):
        (most, _), _ = self.residuals(kaf.SGD(0.1, momentum=0.9))
        assert most < 1e-12

    def test_adam_leaves_both(self, x64):
        _, (_, least) = self.residuals(kaf.Adam())
        assert least > 0.1


class TestWeightDecay:
    @pytest.mark.parametrize("decay", [0.5, kaf.Decoupled(0.5), kaf.L2(0.5)])
    def test_vectors_take_none_and_scalars_do(self, decay):
        start = [np.asarray(KERNEL), np.full(3, 0.5)]
        gradients = [[np.asarray(g), np.zeros(3)] for g in GRADIENTS]
        with_decay = trajectory(nd_adam(0.01, weight_decay=decay), start, gradients)[-1]
        without = trajectory(nd_adam(0.01), start, gradients)[-1]
        adam = trajectory(kaf.Adam(0.01, weight_decay=decay), start, gradients)[-1]
        assert np.array_equal(with_decay[0], without[0])
        assert largest_difference(with_decay[1], adam[1]) <= LIKE_ADAM
        assert np.all(with_decay[1] < without[1])


def network(*, named=True, known_inputs=True, dtype=None):
    """Two kernels, a norm between them; the second kernel's layer can be excluded by name."""
    first = keras.layers.Dense(6, name="body" if named else None, dtype=dtype)
    head = keras.layers.Dense(2, name="head" if named else None, dtype=dtype)
    inputs = [keras.Input((4,))] if known_inputs else []
    return keras.Sequential([*inputs, first, keras.layers.BatchNormalization(dtype=dtype), head])


def kernel_lengths(model):
    return [lengths(to_numpy(w)) for w in model.trainable_variables if w.name == "kernel"]


X = np.random.RandomState(0).randn(16, 4).astype("float32")
Y = np.random.RandomState(1).randn(16, 2).astype("float32")


class TestInModels:
    """Weights that are set, loaded or averaged at any time; saving; other layers' names."""

    def test_building_sets_the_lengths(self):
        model = network()
        before = [to_numpy(w) for w in model.trainable_variables]
        kaf.NDAdam(normalize_on_build=False).build(model.trainable_variables)
        for weight, old in zip(model.trainable_variables, before, strict=True):
            assert np.array_equal(to_numpy(weight), old)
        kaf.NDAdam().build(model.trainable_variables)
        for weight, old in zip(model.trainable_variables, before, strict=True):
            expected = old / lengths(old) if weight.name == "kernel" else old
            assert np.allclose(to_numpy(weight), expected, atol=1e-6)

    def test_building_again_leaves_unit_vectors_as_they_are(self):
        """So that a checkpoint may be restored before the optimizer is built, and goes on alike."""
        model = network()
        kaf.NDAdam().build(model.trainable_variables)
        model.compile(kaf.NDAdam(0.01), "mse")
        model.fit(X, Y, batch_size=4, epochs=3, verbose=0)
        before = [to_numpy(w) for w in model.trainable_variables]
        kaf.NDAdam().build(model.trainable_variables)
        after = [to_numpy(w) for w in model.trainable_variables]
        assert all(map(np.array_equal, before, after))
        kernel = model.trainable_variables[0]
        kernel.assign(before[0] * (1 + 1e-5))
        kaf.NDAdam().build(model.trainable_variables)
        assert np.all(np.abs(lengths(to_numpy(kernel)) - 1) < 1e-6)

    @pytest.mark.parametrize("known_inputs", [True, False])
    def test_fit_builds_before_its_first_gradient(self, known_inputs):
        """Where TensorFlow creates weights within the first step, it normalizes in that step."""
        weights = []
        for build_first in (True, False):
            keras.utils.clear_session(free_memory=False)
            keras.utils.set_random_seed(0)
            model = network(known_inputs=known_inputs)
            model.compile(kaf.NDAdam(0.001), "mse")
            if build_first:
                model.build((None, 4))
                model.optimizer.build(model.trainable_variables)
            model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
            assert np.allclose(np.hstack(kernel_lengths(model)), 1, atol=1e-6)
            weights.append([to_numpy(w) for w in model.trainable_variables])
        if known_inputs or BACKEND != "tensorflow":
            assert largest_difference(*weights) == 0.0

    def test_weights_set_after_build_are_taken_as_unit_vectors(self):
        """Whatever their length, the step is the same: its projection is onto their directions."""
        model = network()
        start = [to_numpy(w) for w in model.trainable_variables]
        random = np.random.RandomState(0)
        gradients = [
            [ops.convert_to_tensor(random.randn(*w.shape), "float32") for w in start]
            for _ in range(3)
        ]
        after = []
        for factor in (1.0, 3.0, 0.01):
            optimizer = kaf.NDAdam(0.01)
            optimizer.build(model.trainable_variables)
            for weight, value in zip(model.trainable_variables, start, strict=True):
                weight.assign(factor * value if weight.name == "kernel" else value)
            for grads in gradients:
                optimizer.apply(grads)
                assert np.allclose(np.hstack(kernel_lengths(model)), 1, atol=1e-6)
            after.append([to_numpy(w) for w in model.trainable_variables])
        for other in after[1:]:
            assert largest_difference(after[0], other) < 1e-5

    def test_loading_a_model_keeps_the_saved_weights(self, tmp_path):
        """Keras builds the optimizer before it restores the weights, here of other lengths."""
        model = network()
        model.compile(kaf.NDAdam(0.001), "mse")
        model.fit(X, Y, verbose=0)
        odd = [2.0 * to_numpy(w) for w in model.trainable_variables]
        for weight, value in zip(model.trainable_variables, odd, strict=True):
            weight.assign(value)
        model.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras")
        assert again.optimizer.built
        assert largest_difference([to_numpy(w) for w in again.trainable_variables], odd) == 0.0
        for each in (model, again):
            each.fit(X, Y, shuffle=False, verbose=0)
            assert np.allclose(np.hstack(kernel_lengths(each)), 1, atol=1e-6)
        same = [[to_numpy(w) for w in each.trainable_variables] for each in (model, again)]
        assert largest_difference(*same) == 0.0

    def test_axes_survive_a_change_of_paths(self, tmp_path):
        """A custom name hides the convolution; loading it puts other names before the path."""
        image = np.random.RandomState(0).randn(8, 6, 6, 2).astype("float32")

        def upward(prefix):
            up = keras.layers.Conv2DTranspose(3, 3, name="up")
            model = keras.Sequential([up, keras.layers.GlobalAveragePooling2D()], name=prefix)
            model(image)
            return model

        model = upward("net")
        vectors = {"^net/up/kernel": [0, 1, 3], "bias": 0}
        model.compile(kaf.NDAdam(0.001, vectors=vectors, weight_decay=0.1), "mse")
        model.fit(image, np.ones((8, 3)), verbose=0)
        assert np.allclose(lengths(to_numpy(model.weights[0]), (0, 1, 3)), 1, atol=1e-6)
        config = model.optimizer.get_config()
        assert config["vectors"] == {"^net/up/kernel": [0, 1, 3], "bias": [0]}
        again = kaf.NDAdam.from_config(config)
        other = upward("other")
        again.build(other.trainable_variables)
        assert again._traits == model.optimizer._traits
        assert [traits["axes"] for traits in again._traits] == [[0, 1, 3], [0]]
        assert not any(traits["decays"] for traits in again._traits)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert loaded.optimizer._traits == model.optimizer._traits
        assert loaded.optimizer.get_config() == config

    def test_saved_axes_belong_to_their_model_and_their_arguments(self):
        """A configuration for other shapes, or edited, is resolved afresh."""
        model = network()
        optimizer = kaf.NDAdam(vectors={"head/kernel": None})
        optimizer.build(model.trainable_variables)
        axes = [traits["axes"] for traits in optimizer._traits]
        assert axes == [[0], None, None, None, None, None]
        config = optimizer.get_config()
        edited = kaf.NDAdam.from_config({**config, "vectors": None})
        edited.build(model.trainable_variables)
        assert [t["axes"] for t in edited._traits] == [[0], None, None, None, [0], None]
        elsewhere = kaf.NDAdam.from_config(config)
        with pytest.warns(UserWarning, match="names no variable"):
            elsewhere.build(variables_of([np.ones((2, 3))] * 6, "float32"))
        assert all(traits["axes"] is None for traits in elsewhere._traits)

    @pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
    def test_mixed_precision(self, policy):
        model = network(dtype=policy)
        optimizer = kaf.NDAdam(0.001)
        if policy == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        model.compile(optimizer, "mse")
        model.fit(X, Y, batch_size=4, epochs=3, verbose=0)
        assert np.allclose(np.hstack(kernel_lengths(model)), 1, atol=1e-6)

    def test_accumulation(self):
        random = np.random.RandomState(0)
        gradients = random.randn(6, 2, 3)
        path = steps(nd_adam(0.01, gradient_accumulation_steps=2), KERNEL, gradients)
        means = [(a + b) / 2 for a, b in zip(gradients[::2], gradients[1::2], strict=True)]
        whole = steps(nd_adam(0.01), KERNEL, means)
        assert largest_difference(path[1::2], whole) < 1e-6
        assert np.array_equal(path[1], path[2])


class TestArguments:
    @pytest.mark.parametrize(
        "vectors",
        [
            *(3, "w0", ["w0"], {3: 0}, {b"w0": 0}, {"(": 0}, {"w0": "0"}, {"w0": 0.0}),
            *({"w0": True}, {"w0": []}, {"w0": [0, None]}, {"w0": {0}}),
        ],
    )
    def test_what_is_not_a_mapping_to_axes(self, vectors):
        with pytest.raises(ValueError, match="`vectors` must be None or a mapping") as error:
            kaf.NDAdam(vectors=vectors)
        inner = list(vectors.values())[0] if isinstance(vectors, dict) else vectors
        assert repr(inner) in str(error.value)

    def test_the_given_mapping_stays_as_it_was(self):
        given = {"w0": [-1, 0]}
        optimizer = kaf.NDAdam(vectors=given)
        given["w0"].append(3)
        assert type(given) is dict and type(given["w0"]) is list
        assert optimizer.vectors == {"w0": [-1, 0]}

    @pytest.mark.parametrize("axes", [2, -3, [0, 5], [0, 0], [1, -1]])
    def test_axes_that_the_variable_does_not_have(self, axes):
        optimizer = nd_adam(vectors={"w0": axes})
        with pytest.raises(ValueError, match=r"different axes between -2 and 1 for 'w0' of shape"):
            optimizer.build(variables_of([KERNEL], "float32"))

    def test_a_number_has_no_axes(self):
        with pytest.raises(ValueError, match=r"for 'w0' of shape \(\)"):
            nd_adam().build(variables_of([1.0], "float32"))

    def test_vectors_are_fixed_once_built(self):
        optimizer = nd_adam()
        optimizer.build(variables_of([KERNEL], "float32"))
        with pytest.raises(ValueError, match="`vectors` is fixed once the optimizer is built"):
            optimizer.vectors = None

    @pytest.mark.parametrize("name", ["amsgrad", "bias_correction"])
    def test_what_it_decides_of_adam(self, name):
        with pytest.raises(ValueError, match=name):
            kaf.NDAdam(**{name: True})


@pytest.mark.skipif(BACKEND != "jax", reason="keras.distribution")
@pytest.mark.parametrize("sharded_axis", [0, 1])
def test_vectors_that_are_spread_over_devices(sharded_axis):
    """Along axis 0 each device holds a part of every vector, and lengths are sums over devices."""
    mesh = keras.distribution.DeviceMesh((4,), ["model"], keras.distribution.list_devices())
    axes = tuple("model" if axis == sharded_axis else None for axis in range(2))
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*kernel"] = keras.distribution.TensorLayout(axes, mesh)
    distribution = keras.distribution.ModelParallel(layout_map=layout)
    random = np.random.RandomState(0)
    start, gradients = random.randn(8, 12), random.randn(3, 8, 12).astype("float32")

    def apply(scope):
        with scope:
            kernel = keras.Variable(start, dtype="float32", name="kernel")
            optimizer = kaf.NDAdam(0.01)
            optimizer.build([kernel])
            built = to_numpy(kernel)
            step = Stepper(optimizer, [kernel])
            for g in gradients:
                step([g])
        return kernel, built

    alone, built_alone = apply(contextlib.nullcontext())
    sharded, built = apply(distribution.scope())
    assert np.allclose(built, built_alone, atol=1e-6)
    assert np.allclose(lengths(built), 1, atol=1e-6)
    assert np.allclose(to_numpy(sharded), to_numpy(alone), atol=1e-6)
    assert not sharded.value.sharding.is_fully_replicated
