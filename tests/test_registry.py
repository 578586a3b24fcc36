"""Every algorithm is found, documented, and comes back from its configuration as it was."""

import inspect
import json
import pathlib

import keras
import numpy as np
import pytest

import keras_adamfamily as kaf
from keras_adamfamily import base, registry, schedules, weight_decay
from keras_adamfamily.hyperparameters import Count, Hyperparameter, Option, Setting
from tests.reference import twins

RECORDS = registry.RECORDS
each = pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)

RESTARTS = kaf.CosineWarmRestarts(0.1, 10, cycle_multiplier=1.5)
#: Arguments beyond the defaults that any algorithm takes.
ARGUMENTS = {
    "defaults": {},
    "integer rate": {"learning_rate": 1},
    "awkward rate": {"learning_rate": 0.8},
    "schedule": {"learning_rate": RESTARTS},
    "Keras's schedule": {"learning_rate": keras.optimizers.schedules.CosineDecay(0.1, 10)},
    "float decay": {"weight_decay": 0.3},
    "decoupled decay": {"learning_rate": 0.1, "weight_decay": kaf.Decoupled(0.3)},
    "L2": {"weight_decay": kaf.L2(0.3)},
    "normalized decay": {
        "learning_rate": RESTARTS,
        "weight_decay": kaf.Normalized(0.3, batch_size=4, dataset_size=20, epochs=7),
    },
    "decay by restarts": {
        "learning_rate": RESTARTS,
        "weight_decay": kaf.Normalized(0.3, batch_size=4, dataset_size=20, epochs=RESTARTS),
    },
    "lr_0": {"weight_decay": kaf.Decoupled(0.3), "initial_learning_rate": 0.7},
    "exclusions": {"weight_decay": 0.1, "weight_decay_exclude": ["bias", r"^a/(b|c)\d$"]},
    "tunable": {
        "weight_decay": kaf.Decoupled(0.3),
        "learning_rate": 0.1,
        "tunable": ["weight_decay"],
    },
    "clipping": {"clipnorm": 0.7},
    "the rest": {
        "global_clipnorm": 2,
        "use_ema": True,
        "ema_momentum": 0.9,
        "ema_overwrite_frequency": 3,
        "loss_scale_factor": 128.0,
        "gradient_accumulation_steps": 4,
        "name": "mine",
    },
}


def own_arguments(cls):
    """An awkward value for each float, another count and another choice than the default."""
    arguments = {}
    for name in inspect.signature(cls.__init__).parameters:
        found = inspect.getattr_static(cls, name, None)
        if isinstance(found, Hyperparameter):
            arguments[name] = 0.7
        elif isinstance(found, Option):
            arguments[name] = found.choices[-1]
        elif isinstance(found, Count):
            arguments[name] = found.minimum + 3
    if arguments.get("maximum_of") == "corrected":
        arguments["bias_correction"] = True
    return arguments


def built(optimizer):
    optimizer.build([keras.Variable(np.ones((2, 3)), name="kernel"), keras.Variable([1.0])])
    return optimizer


def written(optimizer):
    """The configuration as JSON, which is what a saved model holds."""
    return json.dumps(keras.saving.serialize_keras_object(optimizer), sort_keys=True)


# Configurations.


@each
@pytest.mark.once
@pytest.mark.parametrize("is_built", [False, True], ids=["unbuilt", "built"])
def test_configurations_come_back_exactly(record, is_built):
    for label, arguments in {**ARGUMENTS, "own": own_arguments(record.cls)}.items():
        optimizer = record.cls(**arguments)
        if is_built:
            built(optimizer)
        config = optimizer.get_config()
        for name, value in arguments.items():
            if isinstance(value, (int, float, str, list)):
                assert config[name] == value, label
        again = record.cls.from_config(config)
        assert again.get_config() == config, label
        assert optimizer.get_config() == config, label

        saved = keras.saving.serialize_keras_object(optimizer)
        assert saved["registered_name"] == f"keras_adamfamily>{record.name}"
        loaded = keras.saving.deserialize_keras_object(json.loads(json.dumps(saved)))
        assert type(loaded) is record.cls
        assert loaded.get_config() == config, label
        assert written(loaded) == written(optimizer), label
        assert written(keras.optimizers.get(saved)) == written(optimizer), label


@each
def test_the_configuration_has_every_argument(record):
    accepted = base._arguments(record.cls)
    config = record.cls().get_config()
    fixed = {name for name in accepted if name in dir(record.cls) and name not in config}
    assert set(config) == accepted - fixed
    for name in fixed:
        assert not isinstance(inspect.getattr_static(record.cls, name), (Hyperparameter, Setting))


@each
def test_defaults_are_what_the_configuration_says(record):
    config = record.cls().get_config()
    for name, value in record.defaults.items():
        if isinstance(value, weight_decay.WeightDecay):
            value = keras.saving.serialize_keras_object(value)
        if value is not None:
            assert config[name] == value


@pytest.mark.parametrize("rate", [0.8, 0.1, 1e-3, 1 / 3, 1e-8])
@pytest.mark.parametrize("is_built", [False, True])
def test_the_learning_rate_stays_as_it_was_written(rate, is_built):
    """A float32 variable would make 0.800000011920929 of 0.8."""
    optimizer = kaf.Adam(rate)
    if is_built:
        built(optimizer)
    assert optimizer.get_config()["learning_rate"] == rate
    optimizer.learning_rate = 0.1
    assert optimizer.get_config()["learning_rate"] == 0.1
    assert optimizer.get_config()["initial_learning_rate"] == (None if rate == 0.1 else rate)
    again = kaf.Adam.from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()


@pytest.mark.parametrize("is_built", [False, True])
def test_changed_tunable_values_are_in_the_configuration(is_built):
    decay = kaf.Decoupled(0.1)
    optimizer = kaf.Adam(0.1, weight_decay=decay, tunable=["beta_1", "weight_decay"])
    assert optimizer.get_config()["beta_1"] == 0.9
    if is_built:
        built(optimizer)
        assert optimizer.get_config()["beta_1"] == 0.9
        optimizer.weight_decay = 0.3
    optimizer.beta_1 = 0.7
    config = optimizer.get_config()
    assert config["beta_1"] == 0.7
    assert config["weight_decay"]["config"]["rate"] == (0.3 if is_built else 0.1)
    assert kaf.Adam.from_config(config).get_config() == config


# Names.


@each
def test_get_by_name(record):
    name = record.name
    spellings = {name, name.lower(), name.upper(), f" {name} ", f"keras_adamfamily>{name}"}
    spellings |= {"-".join(name), "_".join(name.lower()), *record.aliases}
    spellings.add(keras.src.utils.naming.to_snake_case(name))
    for spelling in spellings:
        optimizer = kaf.get(spelling)
        assert type(optimizer) is record.cls and not optimizer.built
    assert kaf.get(name).get_config()["learning_rate"] == record.defaults["learning_rate"]


@each
def test_get_by_configuration(record, tmp_path):
    optimizer = record.cls(0.7, **own_arguments(record.cls), name="mine")
    saved = keras.saving.serialize_keras_object(optimizer)
    short = {"class_name": record.name.lower(), "config": {"learning_rate": 0.7}}
    for directly, key in ((True, "a"), (False, "b")):
        path = tmp_path / f"{key}.json"
        path.write_text(json.dumps(saved if directly else {"optimizer": saved, "score": 0.9}))
        for identifier in (path, str(path)):
            assert written(kaf.get(identifier)) == written(optimizer)
    assert written(kaf.get(saved)) == written(optimizer)
    assert kaf.get(short).get_config()["learning_rate"] == 0.7
    assert type(kaf.get({"class_name": record.name})) is record.cls


def test_an_optimizer_is_returned_as_it_is():
    for optimizer in (kaf.Adam(), keras.optimizers.Adam()):
        assert kaf.get(optimizer) is optimizer


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("adamv", "Unknown optimizer 'adamv'. Did you mean Adam(W|NC|)? or"),
        ("nadan", "Did you mean .*Nadam"),
        ("sgdd", "Did you mean .*SGDW?"),
        ("xyzzy", "Unknown optimizer 'xyzzy'. Known: SGD, SGDW, Adagrad"),
        ("", "Unknown optimizer ''"),
        (3, "An optimizer's name must be a string. Received: 3"),
        (None, "Received: None"),
        ({"config": {}}, "must have the keys 'class_name' and 'config'"),
        ({"class_name": "Adam", "config": [0.1]}, "must have the keys 'class_name' and 'config'"),
        ({"class_name": 3, "config": {}}, "must be a string. Received: 3"),
        ({"class_name": "Adan", "config": {}}, "Unknown optimizer 'Adan'. Did you mean"),
        (
            {"class_name": "Adam", "config": {"lr": 1.0}},
            r"does not know the argument\(s\) \['lr'\]",
        ),
        ({"class_name": "Adam", "config": {"beta_1": 2}}, r"`beta_1` must be .*\[0, 1\)"),
        ({}, "must have the keys"),
    ],
)
def test_what_is_not_found(name, message):
    with pytest.raises(ValueError, match=message):
        kaf.get(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "Cannot read an optimizer from .*best.json"),
        ("{", "Cannot read an optimizer from .*best.json"),
        ("[1, 2]", r"must hold a JSON object. It holds: \[1, 2\]"),
        ('"adam"', "must hold a JSON object"),
        ("{}", "must have the keys 'class_name' and 'config'"),
        ('{"optimizer": 3}', "must be a string. Received: 3"),
        ('{"optimizer": {"class_name": "Adan", "config": {}}}', "Unknown optimizer 'Adan'"),
        (b"\xff\xfe", "Cannot read an optimizer from"),
    ],
)
def test_files_that_hold_no_optimizer(content, message, tmp_path):
    path = tmp_path / "best.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for identifier in (path, str(path)):
        with pytest.raises(ValueError, match=message):
            kaf.get(identifier)


# Records.


def test_names_are_unique_and_public():
    names = [name.lower() for r in RECORDS for name in (r.name, *r.aliases)]
    assert len(set(names)) == len(names)
    assert kaf.names() == [record.name for record in RECORDS]
    for record in RECORDS:
        assert getattr(kaf, record.name) is record.cls
        assert record.name in kaf.__all__
        assert registry.find(record.name) is record
    assert all(hasattr(kaf, name) for name in kaf.__all__)


@each
def test_records_are_sane(record):
    for low, high in (record.learning_rate, record.weight_decay):
        assert 0 < low < high
        record.cls(low), record.cls(high)
    low, high = record.learning_rate
    assert low <= record.defaults["learning_rate"] <= high
    assert record.paper and record.fixes
    assert record.title.endswith(".") and len(record.title) < 110


@each
def test_each_algorithm_has_a_file_and_a_twin(record):
    assert hasattr(twins, record.name)
    path = pathlib.Path(inspect.getfile(record.cls))
    assert path.parent.name == "optimizers" and len(path.read_text().splitlines()) < 200


@each
def test_state_per_parameter_is_what_build_creates(record):
    optimizer = built(record.cls())
    of_kernel = [v for v in optimizer.variables if "kernel" in v.path]
    of_bias = [v for v in optimizer.variables if tuple(v.shape) and "kernel" not in v.path]
    assert sum(np.prod(tuple(v.shape)) for v in of_kernel) == (
        6 * record.state_per_parameter + 3 * record.state_per_vector
    ), "a kernel of 3 vectors of 2"
    assert len(of_bias) == record.state_per_parameter + record.state_per_vector


# Documentation.

DOCUMENTED = [
    *(record.cls for record in RECORDS),
    *(schedules.CosineWarmRestarts, schedules.WarmupCosine, schedules.InverseSqrt),
    *(weight_decay.Decoupled, weight_decay.Normalized, weight_decay.L2),
    *(kaf.get, base.FamilyOptimizer.make_tunable, base.FamilyOptimizer.exclude_from_weight_decay),
    *(kaf.names, registry.find, base.FamilyOptimizer),
    *(kaf.callbacks.SnapshotEnsemble, kaf.callbacks.EvaluateEMAWeights),
    *(kaf.weight_vectors, kaf.LogitRegularizer, kaf.BatchNormalizedLogits),
]


@pytest.mark.parametrize("subject", DOCUMENTED, ids=lambda subject: subject.__name__)
def test_docstrings(subject):
    text = inspect.getdoc(subject)
    parameters = inspect.signature(subject).parameters
    if subject is not kaf.names:  # which takes nothing and cannot fail
        assert "Raises:\n" in text
    for name in set(parameters) - {"self", "args", "names", "kwargs", "unknown", "name"}:
        assert f"\n    {name}:" in text, f"{name} is not documented"
