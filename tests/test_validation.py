"""Every argument of every constructor refuses what it must, before any training, and says why.

The arguments are found by introspection, so those of a new algorithm are tested too.
"""

import fractions
import inspect
import json
import math
import re

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_adamfamily as kaf
from keras_adamfamily import registry
from keras_adamfamily.hyperparameters import Count, Hyperparameter, Option, Setting
from keras_adamfamily.validation import (
    BETA,
    NON_NEGATIVE,
    POSITIVE,
    UNIT,
    Interval,
    check_choice,
    check_float,
    check_integer,
)
from tests.helpers import quick

CLASSES = [record.cls for record in registry.RECORDS]
LR_0 = {"initial_learning_rate": 0.1}  # lets the learning rate of a decoupled decay be 0
DIVISION = {"batch_size": 4, "dataset_size": 100, "epochs": 3}
RESTARTS = {"learning_rate": 0.1, "first_cycle_steps": 10}
WARMUP = {"learning_rate": 0.1, "total_steps": 10}


def declared(cls, kind):
    found = {name: inspect.getattr_static(cls, name) for name in dir(cls)}
    return {name: value for name, value in found.items() if isinstance(value, kind)}


#: Arguments that every optimizer has: (name, what it accepts, whether None switches it off).
BASE_FLOATS = [
    ("learning_rate", NON_NEGATIVE, False),
    ("weight_decay", NON_NEGATIVE, True),
    ("initial_learning_rate", POSITIVE, True),
    ("clipnorm", POSITIVE, True),
    ("clipvalue", POSITIVE, True),
    ("global_clipnorm", POSITIVE, True),
    ("ema_momentum", UNIT, False),
    ("loss_scale_factor", POSITIVE, True),
]
BASE_INTEGERS = [("ema_overwrite_frequency", 1), ("gradient_accumulation_steps", 2)]

#: Of every class: its other arguments, the argument, what it accepts, whether None is accepted.
FLOATS = {
    **{
        cls: [
            *((LR_0, *argument) for argument in BASE_FLOATS),
            *(({}, n, found.interval, False) for n, found in declared(cls, Hyperparameter).items()),
        ]
        for cls in CLASSES
    },
    kaf.Decoupled: [({}, "rate", BETA, False)],
    kaf.L2: [({}, "rate", NON_NEGATIVE, False)],
    kaf.Normalized: [(DIVISION, "rate", NON_NEGATIVE, False)],
    kaf.CosineWarmRestarts: [
        (RESTARTS, "learning_rate", POSITIVE, False),
        (RESTARTS, "cycle_multiplier", Interval(1.0), False),
        (RESTARTS, "peak_multiplier", UNIT, False),
        (RESTARTS, "minimum_learning_rate", Interval(0.0, 0.1), False),
    ],
    kaf.WarmupCosine: [
        (WARMUP, "learning_rate", POSITIVE, False),
        (WARMUP, "minimum_learning_rate", Interval(0.0, 0.1), False),
    ],
    kaf.InverseSqrt: [({}, "learning_rate", POSITIVE, False)],
}

#: Of every class: its other arguments, the argument, its minimum, whether None is accepted.
INTEGERS = {
    **{
        cls: [
            *(({}, *argument, True) for argument in BASE_INTEGERS),
            *(({}, n, found.minimum, found.optional) for n, found in declared(cls, Count).items()),
        ]
        for cls in CLASSES
    },
    kaf.Normalized: [({"rate": 0.1, **DIVISION}, name, 1, False) for name in DIVISION],
    kaf.CosineWarmRestarts: [(RESTARTS, "first_cycle_steps", 1, False)],
    kaf.WarmupCosine: [(WARMUP, "total_steps", 1, False), (WARMUP, "warmup_steps", 0, False)],
}

#: Of every class: the argument and its choices.
CHOICES = {
    cls: [
        ("use_ema", (False, True)),
        *((name, found.choices) for name, found in declared(cls, Option).items()),
    ]
    for cls in CLASSES
}

each_float = pytest.mark.parametrize("cls", FLOATS)
each_integer = pytest.mark.parametrize("cls", INTEGERS)
each_choice = pytest.mark.parametrize("cls", CHOICES)

HUGE = 10**400

#: What no number argument takes.
STRANGE = [
    *("", "0.5", b"1", True, False, [], [0.5], (0.5,), {"rate": 0.5}, {0.5}, 1 + 0j, object()),
    *(math.nan, math.inf, -math.inf, np.nan, np.float32("inf"), HUGE, -HUGE),
    *(np.array([0.5, 0.5]), np.array([]), np.True_, np.datetime64("2000-01-01"), ...),
]


def assert_refused(make, name, value, *said):
    """`make(**{name: value})` raises; the message has the name, the value, and what was `said`."""
    with pytest.raises((ValueError, TypeError)) as error:
        make(**{name: value})
    message = str(error.value)
    for part in (name, repr(value), *said):
        assert part in message, f"{part!r} is not in: {message}"


def partly(cls, others):
    return lambda **arguments: cls(**{**others, **arguments})


def reals(interval):
    """Floats inside an interval, its closed ends included."""
    low, high = max(interval.low, -1e30), min(interval.high, 1e30)
    ends = {"exclude_min": interval.open_low, "exclude_max": interval.open_high}
    return st.floats(low, high, allow_subnormal=False, **ends)


# Wrong values.


@each_float
def test_strange_values_for_a_float(cls):
    for others, name, interval, optional in FLOATS[cls]:
        for value in STRANGE:
            assert_refused(partly(cls, others), name, value, str(interval))
        if not optional:
            assert_refused(partly(cls, others), name, None, str(interval))


@each_float
@quick
@given(st.data())
def test_floats_out_of_range(cls, data):
    for others, name, interval, _ in FLOATS[cls]:
        value = data.draw(st.one_of(st.floats(), st.integers()), name)
        value = -value if value in interval else value
        if value not in interval:
            assert_refused(partly(cls, others), name, value, str(interval))


@each_integer
def test_strange_values_for_an_integer(cls):
    strange = [value for value in STRANGE if value is not HUGE]
    for others, name, minimum, optional in INTEGERS[cls]:
        for value in [*strange, 3.0, 2.5, fractions.Fraction(5, 2), *([] if optional else [None])]:
            assert_refused(partly(cls, others), name, value, f">= {minimum}")


@each_integer
@quick
@given(st.data())
def test_integers_out_of_range(cls, data):
    for others, name, minimum, _ in INTEGERS[cls]:
        value = data.draw(st.integers(max_value=minimum - 1), name)
        assert_refused(partly(cls, others), name, value, f">= {minimum}")


@each_choice
def test_what_is_not_a_choice(cls):
    for name, choices in CHOICES[cls]:
        strange = [*STRANGE, None, 0, 1, 0.0, 1.0, np.False_, *(repr(c).upper() for c in choices)]
        for value in strange:
            if not any(value is choice for choice in choices):
                assert_refused(cls, name, value, *(repr(choice) for choice in choices))


@pytest.mark.parametrize("cls", CLASSES)
class TestOtherArguments:
    def test_unknown_ones_are_listed_with_the_known(self, cls):
        with pytest.raises(ValueError, match="betas") as error:
            cls(betas=(0.9, 0.999))
        known = [*inspect.signature(cls).parameters, *(name for name, *_ in BASE_FLOATS)]
        for name in {*known, *(name for name, _ in BASE_INTEGERS)} - {"kwargs"}:
            assert repr(name) in str(error.value)

    def test_what_the_algorithm_fixes_is_no_argument(self, cls):
        """Such as AdamNC's beta_2 = 1 - 1/t: given, it is refused, and it is not listed."""
        inherited = {name for base in cls.__mro__[1:] for name in vars(base)}
        kinds = (Hyperparameter, Setting)
        for name in inherited:
            if isinstance(inspect.getattr_static(cls, name), kinds):
                continue
            if not any(isinstance(vars(base).get(name), kinds) for base in cls.__mro__):
                continue
            for value in (0.5, True, "hat", "simple", object()):
                with pytest.raises((ValueError, TypeError), match=name):
                    cls(**{name: value})
            with pytest.raises(ValueError, match="betas") as error:
                cls(betas=1)
            assert f"'{name}'" not in str(error.value)

    def test_name(self, cls):
        for value in (3, 0.5, b"x", ["name"], object()):
            assert_refused(cls, "name", value)

    def test_weight_decay_forms(self, cls):
        for value in (kaf.Decoupled, "Decoupled", {"rate": 0.1}, kaf.InverseSqrt(0.1)):
            assert_refused(cls, "weight_decay", value, "Decoupled", "Normalized", "L2")

    def test_two_ways_of_clipping(self, cls):
        with pytest.raises(ValueError, match="Only one of.*clipnorm=1.0.*global_clipnorm=2.0"):
            cls(clipnorm=1, global_clipnorm=2)

    def test_later_assignments_are_checked_alike(self, cls):
        optimizer = cls()
        for name, found in declared(cls, Hyperparameter).items():
            before = getattr(optimizer, name)
            for value in ("x", math.nan, -1.0, None):
                with pytest.raises(ValueError, match=re.escape(f"`{name}`")) as error:
                    setattr(optimizer, name, value)
                assert str(found.interval) in str(error.value)
            assert getattr(optimizer, name) == before
        for name in declared(cls, Setting):
            with pytest.raises(ValueError, match=f"`{name}`"):
                setattr(optimizer, name, "x")
        for value in ("x", math.nan, -1.0):
            with pytest.raises(ValueError, match="`weight_decay`"):
                optimizer.weight_decay = value


@pytest.mark.parametrize("value", ["beta_1", 3, 0.5, [3], ["learning_rate"], ["x"], [None]])
def test_names_of_tunable_hyperparameters(value):
    """Refused by the constructor, not as late as `build`."""
    with pytest.raises((ValueError, TypeError), match="tunable") as error:
        kaf.Adam(tunable=value)
    assert repr(value[0] if isinstance(value, list) else value) in str(error.value)


@pytest.mark.parametrize("value", ["bias", 3, 0.5, [3], ["("], [None], [["bias"]]])
def test_patterns_of_excluded_weights(value):
    with pytest.raises(ValueError, match="weight_decay_exclude|var_names|Excluded") as error:
        kaf.Adam(weight_decay_exclude=value)
    assert repr(value[0] if isinstance(value, list) else value) in str(error.value)


@pytest.mark.parametrize("value", [["bias"], "bias", [3]])
def test_excluded_variables(value):
    with pytest.raises((ValueError, TypeError), match="var_list"):
        kaf.Adam().exclude_from_weight_decay(var_list=value)


@pytest.mark.parametrize("value", [kaf.InverseSqrt, float])
def test_a_class_is_no_learning_rate(value):
    """`kaf.Adam(kaf.InverseSqrt)`: the schedule's arguments are forgotten."""
    assert_refused(kaf.Adam, "learning_rate", value)


@pytest.mark.parametrize(
    "value", [None, 2.5, "3", 0, kaf.InverseSqrt(0.1), kaf.CosineWarmRestarts, [3]]
)
def test_epochs_of_normalized_decay(value):
    make = partly(kaf.Normalized, {"rate": 0.1, **DIVISION})
    assert_refused(make, "epochs", value, ">= 1", "CosineWarmRestarts")


def test_a_normalized_decay_of_more_than_everything():
    with pytest.raises(ValueError, match="must be below 1. Received: rate=20.0.*4 for 1 epochs"):
        kaf.Normalized(20.0, batch_size=4, dataset_size=100, epochs=1)
    restarts = kaf.CosineWarmRestarts(0.1, first_cycle_steps=25)
    with pytest.raises(ValueError, match="4 for 1 epochs"):
        kaf.Normalized(20.0, batch_size=4, dataset_size=100, epochs=restarts)
    kaf.Normalized(20.0, batch_size=4, dataset_size=100, epochs=17)


def test_options_are_fixed_once_built():
    optimizer = kaf.Adam()
    optimizer.build([keras.Variable(1.0)])
    with pytest.raises(ValueError, match="`amsgrad` is fixed.*amsgrad=True"):
        optimizer.amsgrad = True


# Right values.


@pytest.mark.once("torch")
@each_float
@quick
@given(st.data())
def test_floats_in_range_are_accepted(cls, data):
    for others, name, interval, _ in FLOATS[cls]:
        value = data.draw(reals(interval), name)
        if cls is kaf.Normalized:
            value = min(value, 8.0)  # beyond it more than everything would decay
        assert_accepted(cls, others, name, value, value)
        single = np.float32(value)
        if float(single) in interval:
            assert_accepted(cls, others, name, single, float(single))


@each_float
def test_whole_numbers_are_floats(cls):
    for others, name, interval, _ in FLOATS[cls]:
        for value in (0, 1, 2, np.int64(1), fractions.Fraction(1, 2)):
            if value in interval:
                assert_accepted(cls, others, name, value, float(value))


@each_integer
def test_integers_in_range_are_accepted(cls):
    for others, name, minimum, optional in INTEGERS[cls]:
        for value in (minimum, minimum + 1, np.int32(minimum + 2), np.uint8(minimum)):
            assert_accepted(cls, others, name, value, int(value))
        if optional:
            assert cls(**{**others, name: None}).get_config()[name] is None


@each_choice
def test_choices_are_accepted(cls):
    for name, choices in CHOICES[cls]:
        for value in choices:
            others = {"bias_correction": True} if value == "corrected" else {}
            assert_accepted(cls, others, name, value, value)


def assert_accepted(cls, others, name, value, expected):
    """It is in the configuration as a plain number, whatever it came as."""
    config = cls(**{**others, name: value}).get_config()
    assert config[name] == expected
    assert type(config[name]) is type(expected)
    json.dumps(config)


def test_none_switches_off():
    for name in (name for name, _, optional in BASE_FLOATS if optional):
        assert kaf.Adam(**{name: None}).get_config()[name] is None


def test_no_decay_is_said_by_choosing_the_algorithm_without_it():
    """`None` means no decay; an algorithm that is its decay refuses it rather than guess."""
    for cls in CLASSES:
        try:
            optimizer = cls(weight_decay=None)
        except ValueError as error:
            assert "weight_decay=None" in str(error)
        else:
            assert optimizer.weight_decay is None


# The checks themselves.


@pytest.mark.parametrize(
    ("interval", "text", "inside", "outside"),
    [
        (BETA, "[0, 1)", [0, 0.5, 1 - 1e-16], [1, -1e-300, 2]),
        (UNIT, "[0, 1]", [0, 1], [-0.1, 1 + 1e-15]),
        (POSITIVE, "(0, inf)", [1e-300, 1e300], [0, -1, math.inf]),
        (NON_NEGATIVE, "[0, inf)", [0, 1e300], [-1e-300, math.inf]),
        (Interval(), "(-inf, inf)", [-1e300, 0], [math.inf, -math.inf]),
        (Interval(0.0, 1.0, open_low=True), "(0, 1]", [1e-9, 1], [0]),
    ],
)
def test_intervals(interval, text, inside, outside):
    assert str(interval) == text
    assert all(value in interval for value in inside)
    assert not any(value in interval for value in [*outside, math.nan])


def test_checks_return_plain_values():
    assert type(check_float("x", np.float32(0.5), UNIT)) is float
    assert type(check_float("x", 1, UNIT)) is float
    assert type(check_integer("x", np.int64(3), 1)) is int
    assert check_choice("x", False, (False, True)) is False
    with pytest.raises(ValueError, match="`x` must be one of False, True. Received: x=0"):
        check_choice("x", 0, (False, True))
