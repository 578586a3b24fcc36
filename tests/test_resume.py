"""Interrupted training, loaded in a new process and continued, equals training without a break.

Run as a program with a folder as its argument, this file is that new process.
"""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_adamfamily as kaf

RANDOM = np.random.RandomState(0)
X = RANDOM.normal(size=(12, 4)).astype("float32")
Y = X @ RANDOM.normal(size=(4, 2)).astype("float32")
BATCHES = [(X[i : i + 4], Y[i : i + 4]) for i in range(0, 12, 4)]
HALF = 3  # epochs, so steps 0-8 before the break and 9-17 after it


def restarts():
    return kaf.CosineWarmRestarts(0.05, first_cycle_steps=7, cycle_multiplier=1.5)


def by_restarts():
    return kaf.Normalized(0.3, batch_size=4, dataset_size=12, epochs=restarts())


#: What may be on beside the algorithm's defaults; the break comes in the middle of each of them.
CONFIGURATIONS = {
    "ADOPT": lambda: kaf.ADOPT(),
    "NDAdam": lambda: kaf.NDAdam(),
    "exclusions": lambda: kaf.AdamW(
        weight_decay=kaf.Decoupled(0.1), weight_decay_exclude=["bias", "head"]
    ),
    "restarts": lambda: kaf.AdamW(restarts(), weight_decay=by_restarts()),
    "accumulation": lambda: kaf.SGDW(gradient_accumulation_steps=4),  # 9 = 2 * 4 + 1
    "average": lambda: kaf.Adam(use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=5),
    "tunable": lambda: kaf.NAdamW(weight_decay=0.1, tunable=["beta_1", "weight_decay"]),
    "rate": lambda: kaf.Nadam(0.8e-2, weight_decay=kaf.Decoupled(0.01)),
    "bfloat16": lambda: kaf.Adam(),
    "before the switch": lambda: kaf.SWATS(0.01, switch_at=12),
    "after the switch": lambda: kaf.SWATS(0.01, switch_at=6),
    "switch in accumulation": lambda: kaf.SWATS(switch_at=3, gradient_accumulation_steps=4),
    "switch of each variable": lambda: kaf.SWATS(switch_at=9, scope="variable"),
    "everything": lambda: everything(),
}
IN_EVERYTHING = ("exclusions", "restarts", "average")


def everything():
    return kaf.AMSGrad(
        restarts(),
        weight_decay=by_restarts(),
        weight_decay_exclude=["bias"],
        tunable=["weight_decay", "beta_2"],
        global_clipnorm=1.0,
        use_ema=True,
        loss_scale_factor=4.0,
        gradient_accumulation_steps=2,
        name="everything",
    )


def make_model(optimizer, dtype=None, width=3):
    layers = [keras.layers.Dense(width, activation="tanh", name="body", dtype=dtype)]
    layers.append(keras.layers.Dense(2, name="head", dtype=dtype))
    model = keras.Sequential([keras.Input((4,)), *layers], name="net")
    random = np.random.RandomState(1)
    for weight in model.weights:
        weight.assign(random.normal(scale=0.5, size=weight.shape))
    model.compile(optimizer, loss="mse")
    return model


def train(model, epochs=HALF):
    for x, y in BATCHES * epochs:
        model.train_on_batch(x, y)


def state(model):
    """Everything that training has changed: arrays by number, bfloat16 ones exactly in float32."""
    variables = [*model.weights, *model.optimizer.variables]
    arrays = [keras.ops.convert_to_numpy(v) for v in variables]
    wide = ("float64", "int32", "int64")
    return {
        str(i): a if a.dtype.name in wide else a.astype("float32") for i, a in enumerate(arrays)
    }


def assert_same(ours, theirs, model):
    paths = [v.path for v in (*model.weights, *model.optimizer.variables)]
    assert len(ours) == len(theirs) == len(paths)
    for i, path in enumerate(paths):
        np.testing.assert_array_equal(ours[str(i)], theirs[str(i)], err_msg=path)


# The new process.


def continue_training(folder):
    for path in sorted(folder.glob("*.keras")):
        model = keras.saving.load_model(path)
        train(model)
        np.savez(path.with_suffix(".npz"), **state(model))
        config = model.optimizer.get_config()
        path.with_suffix(".json").write_text(json.dumps(config))


# The process that is interrupted.


def interrupted(folder, configurations):
    """The models after training without a break, and the folder of those that were continued."""
    models = {}
    for name, make in configurations.items():
        models[name] = model = make_model(make(), "bfloat16" if name == "bfloat16" else None)
        train(model)
        if name == "tunable":
            model.optimizer.beta_1 = 0.7
            model.optimizer.weight_decay = 0.3
        if name == "rate":
            model.optimizer.learning_rate = 0.1e-2
        model.save(folder / f"{name}.keras")
        train(model)
    root = pathlib.Path(__file__).parents[1]
    paths = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run(
        [sys.executable, __file__, str(folder)],
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
        timeout=300,
    )
    return models, folder


def test_bit_for_bit(tmp_path):
    quick = {n: make for n, make in CONFIGURATIONS.items() if n not in IN_EVERYTHING}
    models, folder = interrupted(tmp_path, quick)
    check_bit_for_bit(models, folder)
    check_that_the_second_half_matters(models, folder)
    check_that_the_switches_come_where_they_are_meant_to(models, folder)


@pytest.mark.slow
def test_each_rule_bit_for_bit(tmp_path):
    rules = {n: lambda n=n: kaf.get(n) for n in kaf.names()}
    models, folder = interrupted(
        tmp_path, {**rules, **{n: CONFIGURATIONS[n] for n in IN_EVERYTHING}}
    )
    check_bit_for_bit(models, folder)
    check_that_the_second_half_matters(models, folder)


def check_bit_for_bit(models, folder):
    for name, model in models.items():
        with np.load(folder / f"{name}.npz") as continued:
            assert_same(state(model), continued, model)
        assert len(model.optimizer.variables) > 1
        config = json.loads((folder / f"{name}.json").read_text())
        assert config == json.loads(json.dumps(model.optimizer.get_config()))


def check_that_the_switches_come_where_they_are_meant_to(models, folder):
    meant = {"before the switch": (None, 12), "after the switch": (6, 6)}
    meant["switch in accumulation"] = (None, 3)
    for name, steps in meant.items():
        at_the_break = keras.saving.load_model(folder / f"{name}.keras").optimizer
        assert (at_the_break.switch_step, models[name].optimizer.switch_step) == steps
    assert 9 in models["switch of each variable"].optimizer.switch_step.values()


def check_that_the_second_half_matters(models, folder):
    """What is compared above does move, and does depend on the state at the break."""
    for name in models:
        model = keras.saving.load_model(folder / f"{name}.keras")
        at_the_break = state(model)
        with np.load(folder / f"{name}.npz") as continued:
            assert any(not np.array_equal(at_the_break[i], continued[i]) for i in continued.files)
    assert int(at_the_break[str(len(model.weights))]) == 3 * HALF  # iterations


# Keras's ways of saving.


def fit(model, epochs, *callbacks, first=0):
    model.fit(
        X,
        Y,
        batch_size=4,
        epochs=epochs,
        initial_epoch=first,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )


class Interrupt(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == HALF:
            raise KeyboardInterrupt


def make_restarted():
    return make_model(kaf.AdamW(restarts(), weight_decay=by_restarts()))


def test_backup_and_restore(tmp_path):
    whole = make_restarted()
    fit(whole, 2 * HALF)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        fit(make_restarted(), 2 * HALF, backup, Interrupt())
    continued = make_restarted()
    fit(continued, 2 * HALF, keras.callbacks.BackupAndRestore(tmp_path / "backup"))
    assert_same(state(continued), state(whole), whole)


def test_checkpoints_of_weights_alone(tmp_path):
    path = str(tmp_path / "{epoch}.weights.h5")
    whole = make_restarted()
    fit(whole, 2 * HALF, keras.callbacks.ModelCheckpoint(path, save_weights_only=True))
    continued = make_restarted()
    continued.optimizer.build(continued.trainable_variables)
    continued.load_weights(path.format(epoch=HALF))
    fit(continued, 2 * HALF, first=HALF)
    assert_same(state(continued), state(whole), whole)


def test_the_average_replaces_the_weights_at_the_end_of_fit():
    model = make_model(kaf.SGD(0.1, use_ema=True, ema_momentum=0.5))
    fit(model, 1)
    for weight in model.trainable_variables:
        name = weight.path.replace("/", "_") + "_average"
        (average,) = (v for v in model.optimizer.variables if v.name == name)
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(weight), keras.ops.convert_to_numpy(average)
        )
    model.evaluate(X, Y, verbose=0)  # on JAX this deleted the averages, while they shared a buffer
    fit(model, 1)


@pytest.mark.parametrize(
    ("other", "width", "message"),
    [
        (kaf.Adam, 4, r"net_body_kernel_momentum: \(4, 4\) expected, \(4, 3\) saved"),
        (kaf.SGD, 3, r"does not fit SGD 'sgd': 2 variables expected, 10 saved"),
        (kaf.AMSGrad, 3, "14 variables expected, 10 saved"),
        (lambda: kaf.Adam(restarts()), 3, "9 variables expected, 10 saved"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(other, width, message):
    def built(optimizer, width=3):
        optimizer.build(make_model(optimizer, width=width).trainable_variables)
        return optimizer

    store = {}
    built(kaf.Adam()).save_own_variables(store)
    optimizer = built(other(), width)
    before = [keras.ops.convert_to_numpy(v) for v in optimizer.variables]
    with pytest.raises(ValueError, match=message):
        optimizer.load_own_variables(store)
    for variable, value in zip(optimizer.variables, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), value)


#: Checkpoints store variables by their number in this list: it must never change.
ORDER = """
iteration
beta_2
weight_decay
net_body_kernel_average
net_body_bias_average
net_head_kernel_average
net_head_bias_average
net_body_kernel_gradient_accumulator
net_body_bias_gradient_accumulator
net_head_kernel_gradient_accumulator
net_head_bias_gradient_accumulator
net_body_kernel_momentum
net_body_kernel_velocity
net_body_kernel_velocity_hat
net_body_bias_momentum
net_body_bias_velocity
net_body_bias_velocity_hat
net_head_kernel_momentum
net_head_kernel_velocity
net_head_kernel_velocity_hat
net_head_bias_momentum
net_head_bias_velocity
net_head_bias_velocity_hat
"""


def test_the_order_of_variables_is_frozen():
    model = make_model(everything())
    model.optimizer.build(model.trainable_variables)
    assert [v.path for v in model.optimizer.variables] == [
        f"everything/{name}" for name in ORDER.split()
    ]


def test_a_learning_rate_comes_second():
    model = make_model(kaf.Adam(tunable=["beta_2", "beta_1"]))
    model.optimizer.build(model.trainable_variables)
    names = [v.name for v in model.optimizer.variables][:5]
    assert names == ["iteration", "learning_rate", "beta_1", "beta_2", "net_body_kernel_momentum"]


if __name__ == "__main__":
    continue_training(pathlib.Path(sys.argv[1]))
