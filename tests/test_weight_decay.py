"""Weight decay: how much each form subtracts, relative to which rate, and from which weights."""

import functools
import re

import keras
import numpy as np
import pytest

import keras_adamfamily as kaf
from tests.reference import schedules, twins
from tests.steps import BACKEND, Stepper, largest_difference, to_numpy, trajectory, variables_of

FORMS = {
    "float": (0.5, ("keras", 0.5)),
    "Decoupled": (kaf.Decoupled(0.02), ("decoupled", 0.02)),
    "Normalized": (
        kaf.Normalized(0.3, batch_size=4, dataset_size=100, epochs=3),
        ("normalized", 0.3, 4, 100, 3),
    ),
    "L2": (kaf.L2(0.1), ("l2", 0.1)),
}
RULES = {
    "Adam": {},
    "SGD": {"momentum": 0.9},
    "SGDW": {"momentum": 0.9, "nesterov": True},
    "NAdamW": {},
    "RMSprop": {"rho": 0.9, "momentum": 0.5},
}
START = [np.array([1.0, -2.0, 0.5])]
STEPS = 12


def gradients(steps=STEPS, scale=1.0):
    return [[scale * g] for g in np.random.RandomState(0).normal(size=(steps, 3))]


def path(optimizer, steps=STEPS, dtype="float64", scale=1.0):
    """theta_1, theta_2, ...: an array over steps and components."""
    return np.array(trajectory(optimizer, START, gradients(steps, scale), dtype))[:, 0]


def twin_path(twin, steps=STEPS):
    theta, found = START[0], []
    for (g,) in gradients(steps):
        theta = twin.step(theta, g)
        found.append(theta)
    return np.array(found)


def shrinkage(optimizer, steps=1, before=lambda step: None):
    """The fraction of a weight that each step removes when there is no gradient."""
    (variable,) = variables_of([1.0], "float64")
    zero, found = keras.ops.zeros((), "float64"), []
    for step in range(steps):
        before(step)
        old = float(to_numpy(variable))
        optimizer.apply([zero], [variable])
        found.append(1 - float(to_numpy(variable)) / old)
    return found


# How much.


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("schedule", ["constant", "restarts", "warm-up"])
def test_each_form_equals_the_twin(rule, form, schedule, x64):
    ours, reference = FORMS[form]
    rate, twin_rate, initial = {
        "constant": (0.05, 0.05, None),
        "restarts": (
            kaf.CosineWarmRestarts(0.05, 3),
            functools.partial(schedules.cosine_restarts, peak=0.05, cycle_steps=3, cycle_mult=2),
            None,
        ),
        "warm-up": (
            kaf.WarmupCosine(0.05, 10, warmup_steps=4),
            functools.partial(schedules.warmup_cosine, peak=0.05, total_steps=10, warmup_steps=4),
            0.05,  # the peak, not the warm-up's first value
        ),
    }[schedule]
    optimizer = getattr(kaf, rule)(rate, weight_decay=ours, **RULES[rule])
    twin = getattr(twins, rule)(
        learning_rate=twin_rate,
        weight_decay=reference,
        initial_learning_rate=initial,
        **RULES[rule],
    )
    expected = twin_path(twin)
    assert largest_difference(path(optimizer), expected) < 1e-9
    twin = getattr(twins, rule)(learning_rate=twin_rate, **RULES[rule])
    assert largest_difference(twin_path(twin), expected) > 1e-3, "the decay must show"


def test_a_float_is_what_keras_does():
    common = {"learning_rate": 0.01, "weight_decay": 0.3, "epsilon": 1e-7}
    ours = path(kaf.AdamW(**common, epsilon_form="hat"), dtype="float32")
    assert largest_difference(ours, path(keras.optimizers.AdamW(**common), dtype="float32")) < 2e-6


@pytest.mark.parametrize(
    ("epochs", "expected"), [(100, 1.264911e-4), (1500, 3.265986e-5), (1800, 2.981424e-5)]
)
@pytest.mark.parametrize("factor", [1, 2])
def test_normalized_decay_of_the_paper(epochs, expected, factor, x64):
    decay = kaf.Normalized(0.025 * factor, batch_size=128, dataset_size=50_000, epochs=epochs)
    (removed,) = shrinkage(kaf.SGD(0.01, weight_decay=decay))
    assert removed == pytest.approx(factor * expected, abs=1e-10)


def test_normalized_decay_follows_the_cycle(x64):
    """AdamWR: T is T_i, the epochs of the cycle that the step is in."""
    restarts = kaf.CosineWarmRestarts(0.1, first_cycle_steps=10, minimum_learning_rate=0.02)
    decay = kaf.Normalized(0.3, batch_size=4, dataset_size=20, epochs=restarts)
    removed = shrinkage(kaf.SGD(restarts, weight_decay=decay), steps=32)
    rate = functools.partial(
        schedules.cosine_restarts, peak=0.1, cycle_steps=10, cycle_mult=2, minimum=0.02
    )
    for step, fraction in enumerate(removed):
        epochs = 2 if step < 10 else 4 if step < 30 else 8
        eta = rate(step) / 0.1
        expected = eta * twins.normalized_decay(0.3, 4, 20, epochs)
        assert fraction == pytest.approx(expected, abs=1e-9), step


def test_normalized_decay_counts_the_last_short_batch(x64):
    """Keras sees 391 batches of 128 in 50,000 examples, so a cycle of 391 steps is an epoch."""
    restarts = kaf.CosineWarmRestarts(0.1, first_cycle_steps=391)
    sizes = {"batch_size": 128, "dataset_size": 50_000}
    cycle, epoch = (
        shrinkage(kaf.SGD(0.1, weight_decay=kaf.Normalized(0.3, **sizes, epochs=epochs)))
        for epochs in (restarts, 1)
    )
    assert cycle == pytest.approx(epoch, abs=1e-12)


def test_decay_is_free_of_the_gradient_scale_and_l2_is_not(x64):
    """The contrast table: 2000 steps of pure noise at five scales, with lambda 0.1."""
    scales = np.array([0.01, 0.1, 1, 10, 100])
    noise = np.random.RandomState(1).normal(size=2000)

    def final(weight_decay, steps=2000):
        optimizer = kaf.Adam(0.001, weight_decay=weight_decay)
        variables = variables_of([np.ones(5)], "float64")
        step = Stepper(optimizer, variables) if BACKEND != "torch" else optimizer.apply
        optimizer.build(variables)
        for z in noise[:steps]:
            step([keras.ops.convert_to_tensor(scales * z, "float64")])
        return to_numpy(variables[0])

    l2 = (0.023267, 0.173775, 0.758009, 0.911668, 0.928790)
    np.testing.assert_allclose(final(kaf.L2(0.1)), l2, rtol=0, atol=1e-6)
    decoupled = final(kaf.Decoupled(0.1 * 0.001))
    np.testing.assert_allclose(decoupled, 0.757622, rtol=0, atol=1e-6)
    assert np.ptp(decoupled[1:]) < 1e-6  # epsilon is felt at the smallest scale alone
    same = final(0.1, steps=200), final(kaf.Decoupled(0.1 * 0.001), steps=200)
    np.testing.assert_allclose(*same, rtol=0, atol=1e-12)


# Relative to which learning rate.


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_lowering_the_rate_lowers_decoupled_decay(compiled, x64):
    """As a callback does it: lr_t / lr_0 scales the decay, on the fly."""
    optimizer = kaf.SGD(0.8, weight_decay=kaf.Decoupled(0.1))
    variables = variables_of([1.0], "float64")
    apply = Stepper(optimizer, variables) if compiled else lambda g: optimizer.apply(g, variables)
    weights = []
    for rate in (0.8, 0.4, 0.2):
        optimizer.learning_rate = rate
        apply([keras.ops.zeros((), "float64")])
        weights.append(float(to_numpy(variables[0])))
    expected = np.cumprod([1 - 0.1, 1 - 0.05, 1 - 0.025])
    np.testing.assert_allclose(weights, expected, rtol=1e-7)


def test_lr_0_survives_a_lowered_rate_and_the_config(x64):
    optimizer = kaf.SGD(0.8, weight_decay=kaf.Decoupled(0.1))
    optimizer.learning_rate = 0.4
    again = kaf.SGD.from_config(optimizer.get_config())
    assert shrinkage(again) == pytest.approx([0.05], rel=1e-7)


@pytest.mark.parametrize(
    ("rate", "initial", "expected"),
    [
        (0.2, None, 0.1),
        (0.2, 0.4, 0.05),
        (lambda: 0.2, 0.4, 0.05),
        (keras.optimizers.schedules.ExponentialDecay(np.float32(0.25), 10, 0.5), None, 0.1),
        (kaf.InverseSqrt(0.2), 0.4, 0.05),
        (keras.optimizers.schedules.ExponentialDecay(0.2, 10, 0.5), None, 0.1),
        (
            keras.optimizers.schedules.CosineDecay(0.1, 10, warmup_target=0.2, warmup_steps=5),
            None,
            0.05,
        ),
    ],
)
def test_initial_learning_rate(rate, initial, expected, x64):
    optimizer = kaf.SGD(rate, weight_decay=kaf.Decoupled(0.1), initial_learning_rate=initial)
    assert shrinkage(optimizer) == pytest.approx([expected], rel=1e-6)


@pytest.mark.parametrize(
    "rate", [lambda: 0.1, keras.optimizers.schedules.PiecewiseConstantDecay([5], [1.0, 0.5]), 0.0]
)
@pytest.mark.parametrize("form", ["Decoupled", "Normalized"])
def test_a_rate_without_lr_0_needs_it_given(rate, form):
    decay, _ = FORMS[form]
    with pytest.raises(ValueError, match="Pass `initial_learning_rate`, a float > 0") as error:
        kaf.Adam(rate, weight_decay=decay)
    assert f"learning_rate={rate!r}" in str(error.value)
    for unaffected in (None, 0.1, kaf.L2(0.1)):
        kaf.Adam(rate, weight_decay=unaffected)


# From which weights.


def model_with_a_head(optimizer=None):
    layers = [keras.Input((3,)), keras.layers.Dense(2, name="body")]
    layers += [keras.layers.BatchNormalization(name="norm"), keras.layers.Dense(1, name="head")]
    model = keras.Sequential(layers, name="net")
    for variable in model.trainable_variables:
        variable.assign(keras.ops.ones(variable.shape))
    if optimizer is not None:
        model.compile(optimizer, loss="mse")
    return model


def decayed(model):
    """The weights that a step without gradients changes, as "layer/weight"."""
    weights = model.trainable_variables
    before = [to_numpy(v) for v in weights]
    model.optimizer.apply([keras.ops.zeros(v.shape) for v in weights], weights)
    return {
        "/".join(v.path.split("/")[-2:])
        for v, old in zip(weights, before, strict=True)
        if not np.array_equal(to_numpy(v), old)
    }


ALL = {f"{layer}/{name}" for layer in ("body", "head") for name in ("kernel", "bias")}
ALL |= {"norm/gamma", "norm/beta"}
EXCLUSIONS = {
    "none": ([], ALL),
    "a layer": (["head"], {name for name in ALL if "head" not in name}),
    "the model": (["^net/"], set()),
    "a name": (["bias"], {name for name in ALL if "bias" not in name}),
    "usual": (["bias$", "norm"], {"body/kernel", "head/kernel"}),
    "regular expression": (["net/(body|norm)/"], {"head/kernel", "head/bias"}),
    "no match": (["^kernel", "BIAS"], ALL),
}


@pytest.mark.parametrize(("patterns", "expected"), EXCLUSIONS.values(), ids=EXCLUSIONS.keys())
def test_exclusions_by_full_path(patterns, expected):
    optimizer = kaf.AdamW(0.1, weight_decay=0.1, weight_decay_exclude=patterns)
    assert optimizer.get_config()["weight_decay_exclude"] == patterns
    assert decayed(model_with_a_head(optimizer)) == expected
    again = kaf.AdamW.from_config(optimizer.get_config())
    assert decayed(model_with_a_head(again)) == expected


@pytest.mark.parametrize(("patterns", "expected"), EXCLUSIONS.values(), ids=EXCLUSIONS.keys())
def test_exclusions_are_saved_with_the_model(patterns, expected, tmp_path):
    """Keras loads a `Sequential` without its name in the paths: what was excluded must stay so."""
    model = model_with_a_head(kaf.AdamW(0.1, weight_decay=0.1, weight_decay_exclude=patterns))
    decayed(model)
    model.save(tmp_path / "model.keras")
    assert decayed(keras.saving.load_model(tmp_path / "model.keras")) == expected


def test_exclusions_add_up_whichever_way_they_are_given(tmp_path):
    model = model_with_a_head()
    optimizer = kaf.AdamW(0.1, weight_decay=0.1, weight_decay_exclude=["norm"])
    optimizer.exclude_from_weight_decay(var_names=["body"])
    optimizer.exclude_from_weight_decay(var_list=[model.get_layer("head").kernel])
    model.compile(optimizer)
    assert decayed(model) == {"head/bias"}
    again = kaf.AdamW.from_config(optimizer.get_config())
    assert decayed(model_with_a_head(again)) == {"head/bias"}
    model.save(tmp_path / "model.keras")
    assert decayed(keras.saving.load_model(tmp_path / "model.keras")) == {"head/bias"}


def test_a_variable_is_excluded_by_its_exact_path():
    variables = [keras.Variable([1.0], name=name) for name in ("w", "w_1", "a.w", "axw")]
    optimizer = kaf.SGD(0.1, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_list=[variables[0], variables[2]])
    optimizer.apply([keras.ops.zeros((1,))] * 4, variables)
    assert [float(to_numpy(v)[0]) == 1.0 for v in variables] == [True, False, True, False]


@pytest.mark.parametrize("form", FORMS)
def test_exclusion_holds_for_every_form(form):
    decay, _ = FORMS[form]
    optimizer = kaf.SGD(0.1, weight_decay=decay, weight_decay_exclude=["head"])
    assert decayed(model_with_a_head(optimizer)) == {name for name in ALL if "head" not in name}


def test_excluding_after_build_is_refused():
    optimizer = kaf.AdamW()
    optimizer.build(variables_of([1.0], "float32"))
    with pytest.raises(ValueError, match="must be called before the optimizer is built"):
        optimizer.exclude_from_weight_decay(var_names=["bias"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("bias", "(var_names|weight_decay_exclude)`.*'bias'"),
        (["(unclosed"], r"regular expressions.*'\(unclosed'"),
        ([3], "(var_names|weight_decay_exclude|regular expressions).*3"),
    ],
)
def test_what_is_no_list_of_regular_expressions_is_refused(names, message):
    with pytest.raises(ValueError, match=message):
        kaf.AdamW(weight_decay_exclude=names)
    with pytest.raises(ValueError, match=message):
        kaf.AdamW().exclude_from_weight_decay(var_names=names)


def test_names_may_come_one_by_one():
    """From a generator, which gives them once."""
    given = kaf.AdamW(weight_decay_exclude=(name for name in ["bias", "scale"]))
    assert given.get_config()["weight_decay_exclude"] == ["bias", "scale"]
    later = kaf.AdamW()
    later.exclude_from_weight_decay(var_names=(name for name in ["bias"]))
    assert later.get_config()["weight_decay_exclude"] == ["bias"]


# The forms as values.


@pytest.mark.parametrize("form", [form for form in FORMS if form != "float"])
def test_forms_are_values(form):
    decay, _ = FORMS[form]
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(decay))
    assert again == decay and hash(again) == hash(decay)
    assert again != kaf.L2(0.7)
    assert re.fullmatch(rf"{form}\(rate={decay.rate}.*\)", repr(decay))
    assert repr(again) == repr(decay)


def test_zero_decay_is_none(x64):
    for decay in (0.0, kaf.Decoupled(0.0), kaf.L2(0.0)):
        assert largest_difference(path(kaf.Adam(0.1, weight_decay=decay)), path(kaf.Adam(0.1))) == 0
