"""Snapshots are the iterates at restarts; evaluation at averages leaves training as it was."""

import contextlib
import functools

import keras
import numpy as np
import pytest

import keras_adamfamily as kaf
from keras_adamfamily.callbacks import EvaluateEMAWeights, SnapshotEnsemble
from tests.helpers import cycles
from tests.steps import BACKEND, to_numpy

STEPS = 4  # per epoch, so that restarts come within epochs and at their ends
RANDOM = np.random.RandomState(0)
X = RANDOM.randn(3 * STEPS, 4).astype("float32")
Y = RANDOM.randn(3 * STEPS, 2).astype("float32")
ENDS = [start + length for start, length in cycles(4, 1.5, 3)]  # 4, 10, 19


def restarts(first=4, multiplier=1.5):
    return kaf.CosineWarmRestarts(0.05, first, cycle_multiplier=multiplier)


def make_model(optimizer=None, dtype=None, **compile_arguments):
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(3, name="body", dtype=dtype),
        keras.layers.BatchNormalization(name="norm", dtype=dtype),
        keras.layers.Dense(2, name="head", dtype=dtype),
    ]
    model = keras.Sequential([keras.Input((4,)), *layers], name="net")
    if optimizer is not None:
        model.compile(optimizer, loss="mse", **compile_arguments)
    return model


def fit(model, epochs, *callbacks, x=X, **arguments):
    settings = {"batch_size": 3, "shuffle": False, "verbose": 0, **arguments}
    return model.fit(x, Y, epochs=epochs, callbacks=list(callbacks), **settings)


class StopAt(keras.callbacks.Callback):
    """Ends training once the optimizer has counted so many steps."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        self.model.stop_training = int(optimizer._iterations) >= self.step


class InterruptAfter(keras.callbacks.Callback):
    """Ends training as ctrl-C does, after so many epochs or batches of an evaluation."""

    def __init__(self, epochs=None, test_batches=None):
        super().__init__()
        self.epochs, self.test_batches = epochs, test_batches

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epochs:
            raise KeyboardInterrupt

    def on_test_batch_end(self, batch, logs=None):
        if batch + 1 == self.test_batches:
            self.model  # noqa: B018 - so that JAX's variables hold values
            raise KeyboardInterrupt


def arrays(variables):
    return [to_numpy(v).astype("float32") for v in variables]


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(np.asarray(one, "float32"), np.asarray(other, "float32"))


def weights_of(snapshot, dtype=None):
    if isinstance(snapshot, list):
        return snapshot
    model = make_model(dtype=dtype)
    model.load_weights(snapshot)
    return arrays(model.weights)


# Snapshots.

CASES = {
    "AdamW": (lambda: kaf.AdamW(restarts()), None),
    "Keras": (lambda: keras.optimizers.SGD(restarts()), None),
    "accumulation": (lambda: kaf.SGDW(restarts(), gradient_accumulation_steps=3), None),
    "average": (lambda: kaf.Adam(restarts(), use_ema=True), None),
    "bfloat16": (lambda: kaf.AdamW(restarts()), "bfloat16"),
}


@functools.cache
def iterates(case):
    """The weights after each step of a training without snapshots, by the step."""
    optimizer, dtype = CASES[case]
    model, found = make_model(optimizer(), dtype), {}

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            found[int(self.model.optimizer._iterations)] = arrays(self.model.weights)

    fit(model, 5, Record())
    return found


@pytest.mark.parametrize(
    ("case", "in_folder"),
    [
        ("AdamW", False),
        ("bfloat16", True),
        *(pytest.param(case, False, marks=pytest.mark.once) for case in CASES if case != "AdamW"),
        pytest.param("AdamW", True, marks=pytest.mark.once),
    ],
)
def test_a_snapshot_is_the_iterate_just_before_a_restart(case, in_folder, tmp_path):
    optimizer, dtype = CASES[case]
    ensemble = SnapshotEnsemble(tmp_path / "new" / "folder" if in_folder else None)
    fit(make_model(optimizer(), dtype), 5, ensemble)
    assert list(ensemble.snapshots) == [1, 2, 3]
    for snapshot, end in zip(ensemble.snapshots.values(), ENDS, strict=True):
        assert_same(weights_of(snapshot, dtype), iterates(case)[end])


def test_a_run_that_stops_at_a_restart_ends_at_the_snapshot():
    model, ensemble = make_model(kaf.AdamW(restarts())), SnapshotEnsemble()
    fit(model, 5, StopAt(ENDS[1]), ensemble)
    assert_same(ensemble.snapshots[2], arrays(model.weights))
    assert_same(ensemble.snapshots[2], iterates("AdamW")[ENDS[1]])
    rates = [float(restarts()(step)) for step in range(ENDS[1] + 1)]
    assert rates[-2] == min(rates) and rates[-1] == max(rates)


def test_files_hold_the_weights_alone(tmp_path):
    model = make_model(kaf.AdamW(restarts()))
    optimizer = model.optimizer
    fit(model, 1, SnapshotEnsemble(tmp_path))
    assert model.optimizer is optimizer
    before = arrays(model.optimizer.variables)
    fit(model, 1)
    after = arrays(model.optimizer.variables)
    model.load_weights(tmp_path / "cycle-1.weights.h5")
    assert_same(arrays(model.optimizer.variables), after)
    assert int(before[0]) == STEPS and int(after[0]) == 2 * STEPS


@pytest.mark.parametrize(
    ("at", "in_folder", "kept"),
    [
        (1, True, [1, 2, 3]),
        (3, False, [3]),
        pytest.param(3, True, [1, 2, 3], marks=pytest.mark.once),
        pytest.param(1, False, [1, 2, 3], marks=pytest.mark.once),
    ],
)
def test_resume(at, in_folder, kept, tmp_path):
    """As without the break, which is at a restart or within a cycle; in memory, what follows it."""

    def run(*more):
        ensemble = SnapshotEnsemble(tmp_path / "snapshots" if in_folder else None)
        callbacks = [keras.callbacks.BackupAndRestore(tmp_path / "backup"), ensemble]
        order = 1 if in_folder else -1
        fit(make_model(kaf.AdamW(restarts())), 5, *callbacks[::order], *more)
        return ensemble

    with pytest.raises(KeyboardInterrupt):
        run(InterruptAfter(epochs=at))
    snapshots = run().snapshots
    assert list(snapshots) == kept
    for cycle, snapshot in snapshots.items():
        assert_same(weights_of(snapshot), iterates("AdamW")[ENDS[cycle - 1]])


def test_another_training_begins_anew(tmp_path):
    ensemble = SnapshotEnsemble(tmp_path)
    fit(make_model(kaf.AdamW(restarts())), 5, ensemble)
    fit(make_model(kaf.AdamW(restarts())), 2, ensemble)
    assert list(ensemble.snapshots) == [1]
    in_files = SnapshotEnsemble(tmp_path)
    assert list(in_files.snapshots) == [1]
    assert_same(weights_of(in_files.snapshots[1]), iterates("AdamW")[ENDS[0]])
    fit(make_model(kaf.AdamW(restarts())), 2, in_files)
    assert list(in_files.snapshots) == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["cycle-1.weights.h5"]


def test_skipped_steps_do_not_count():
    """Loss scaling leaves out a step whose gradient is not finite: the cycle ends a batch later."""

    def model():
        optimizer = keras.optimizers.LossScaleOptimizer(kaf.SGD(restarts()), initial_scale=2.0)
        return make_model(optimizer)

    x = X.copy()
    x[3] = np.inf  # in the second batch
    ensemble, stopped = SnapshotEnsemble(), model()
    fit(model(), 2, ensemble, x=x)
    history = fit(stopped, 2, StopAt(ENDS[0]), x=x)
    assert len(history.epoch) == 2
    trainable = [i for i, w in enumerate(stopped.weights) if w.trainable]
    ours, theirs = ensemble.snapshots[1], arrays(stopped.weights)
    assert_same([ours[i] for i in trainable], [theirs[i] for i in trainable])


@pytest.mark.skipif(BACKEND == "torch", reason="Keras refuses it on PyTorch")
def test_several_steps_per_execution():
    model, ensemble = make_model(kaf.AdamW(restarts()), steps_per_execution=2), SnapshotEnsemble()
    with pytest.raises(ValueError, match="cycle 3 came 1 steps before .*_execution`=2"):
        fit(model, 5, ensemble)
    assert list(ensemble.snapshots) == [1, 2]
    for snapshot, end in zip(ensemble.snapshots.values(), ENDS, strict=False):
        for one, other in zip(snapshot, iterates("AdamW")[end], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "found"),
    [
        (lambda: kaf.AdamW(1e-3), "AdamW with learning_rate=<.*Variable"),
        (lambda: keras.optimizers.Adam(1e-3), "Adam with"),
        (lambda: kaf.AdamW(kaf.WarmupCosine(1e-3, 10)), "AdamW with learning_rate=<.*WarmupCosine"),
        (
            lambda: keras.optimizers.LossScaleOptimizer(kaf.SGD(1e-3)),
            "SGD with learning_rate",
        ),
    ],
)
def test_an_optimizer_without_cycles_is_refused(optimizer, found):
    model = make_model(optimizer())
    before = arrays(model.weights)
    with pytest.raises(ValueError, match=f"is a `CosineWarmRestarts`. Received: {found}"):
        fit(model, 1, SnapshotEnsemble())
    assert_same(arrays(model.weights), before)


def test_wrong_arguments_of_an_ensemble(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="`folder` must be a folder, not a file"):
        SnapshotEnsemble(tmp_path / "file")
    for folder in ("", 3, True):
        with pytest.raises(ValueError, match=f"`folder` must be a path or None. .*{folder!r}"):
            SnapshotEnsemble(folder)
    ensemble = SnapshotEnsemble()
    ensemble.set_model(make_model(kaf.AdamW(restarts())))
    with pytest.raises(ValueError, match="no snapshot yet"):
        ensemble.predict(X)
    with pytest.raises(ValueError, match="`last` must be an integer >= 1"):
        ensemble.predict(X, last=0)
    with pytest.raises(ValueError, match="read once for each snapshot, which a generator cannot"):
        ensemble.predict(iter([X]))
    (tmp_path / "cycle-1.weights.h5").touch()
    with pytest.raises(ValueError, match=r"Call `set_model\(model\)` first"):
        SnapshotEnsemble(tmp_path).predict(X)


@pytest.mark.parametrize(
    "in_folder",
    [pytest.param(False, marks=pytest.mark.once), True],
    ids=["memory", "folder"],
)
def test_the_mean_of_predictions(in_folder, tmp_path):
    model = make_model(kaf.AdamW(restarts()))
    ensemble = SnapshotEnsemble(tmp_path if in_folder else None)
    fit(model, 5, ensemble)
    before = arrays([*model.variables, *model.optimizer.variables])

    each, other = [], make_model()
    for snapshot in ensemble.snapshots.values():
        other.set_weights(weights_of(snapshot))
        each.append(other.predict(X, verbose=0))
    assert np.ptp(each, axis=0).min() > 1e-4
    for last, chosen in ((None, each), (9, each), (2, each[1:])):
        found = ensemble.predict(X, last=last, batch_size=5, verbose=0)
        np.testing.assert_allclose(found, np.mean(chosen, axis=0), atol=1e-6)
    soft = [np.exp(y) / np.exp(y).sum(axis=1, keepdims=True) for y in each]
    found = ensemble.predict(X, activation="softmax", verbose=0)
    np.testing.assert_allclose(found, np.mean(soft, axis=0), atol=1e-6)

    assert_same(arrays([*model.variables, *model.optimizer.variables]), before)
    if in_folder:  # in another process, uncompiled
        again = SnapshotEnsemble(tmp_path)
        again.set_model(make_model())
        np.testing.assert_array_equal(again.predict(X, verbose=0), ensemble.predict(X, verbose=0))


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_the_mean_is_as_precise_as_the_predictions(dtype, x64):
    model = make_model(kaf.AdamW(restarts()), dtype)
    ensemble = SnapshotEnsemble()
    fit(model, 5, ensemble)
    found, each = ensemble.predict(X, verbose=0), []
    for snapshot in ensemble.snapshots.values():
        model.set_weights(snapshot)
        each.append(np.asarray(model.predict(X, verbose=0)).astype("float64"))
    assert found.dtype == ("float64" if dtype == "float64" else "float32")
    tolerance = 1e-15 if dtype == "float64" else 1e-6
    np.testing.assert_allclose(found, np.mean(each, axis=0), rtol=0, atol=tolerance)


def test_predictions_of_any_structure():
    inputs = keras.Input((4,))
    outputs = {"a": keras.layers.Dense(1)(inputs), "b": keras.layers.Dense(3)(inputs)}
    model = keras.Model(inputs, outputs)
    model.compile(kaf.SGD(restarts()), loss={"a": "mse", "b": "mse"})
    ensemble = SnapshotEnsemble()
    targets = {"a": Y[:, :1], "b": X[:, :3]}
    model.fit(X, targets, batch_size=3, epochs=1, verbose=0, callbacks=[ensemble])
    found, alone = ensemble.predict(X, verbose=0), model.predict(X, verbose=0)
    assert {name: y.shape for name, y in found.items()} == {"a": (12, 1), "b": (12, 3)}
    for name in found:
        np.testing.assert_allclose(found[name], alone[name], atol=1e-6)


# Evaluation at averaged weights.

AVERAGING = {
    "float32": (lambda: kaf.AdamW(0.05, use_ema=True, ema_momentum=0.9), None),
    "bfloat16": (lambda: kaf.AdamW(0.05, use_ema=True, ema_momentum=0.9), "bfloat16"),
    "Keras": (lambda: keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.9), None),
    "loss scale": (
        lambda: keras.optimizers.LossScaleOptimizer(kaf.Adam(0.05, use_ema=True, ema_momentum=0.9)),
        None,
    ),
    "accumulation": (
        lambda: kaf.Adam(0.05, use_ema=True, ema_momentum=0.9, gradient_accumulation_steps=3),
        None,
    ),
}


def averaging(*cases):
    """The first of the cases, and the others once."""
    given = [
        pytest.param(*AVERAGING[c], id=c, marks=[pytest.mark.once] * (i > 0))
        for i, c in enumerate(cases)
    ]
    return pytest.mark.parametrize(("optimizer", "dtype"), given)


class Recorder(keras.callbacks.Callback):
    """All variables at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.states = []

    def on_epoch_end(self, epoch, logs=None):
        model = self.model
        self.states.append(arrays([*model.trainable_variables, *model.optimizer.variables]))


def at_the_average(model):
    """A model of its own at the averages, which `fit` has put into `model`."""
    other = make_model(dtype=model.layers[0].dtype)
    other.set_weights(model.get_weights())
    other.compile(loss="mse")
    return other


@averaging("float32", "bfloat16", "Keras")
def test_training_goes_on_as_without_the_callback(optimizer, dtype):
    states, scores = [], []
    for callbacks in ([], [EvaluateEMAWeights()]):
        model, recorder = make_model(optimizer(), dtype), Recorder()
        history = fit(model, 4, recorder, *callbacks, validation_data=(X, Y))
        states.append(recorder.states)
        scores.append(history.history["val_loss"])
        expected = at_the_average(model).evaluate(X, Y, verbose=0)
    for without, with_it in zip(*states, strict=True):
        assert_same(without, with_it)
    assert scores[0][-1] != scores[1][-1] == pytest.approx(expected, rel=1e-6)


@averaging(*AVERAGING)
def test_evaluate_and_predict(optimizer, dtype):
    averaged = EvaluateEMAWeights()
    model = make_model(optimizer(), dtype)
    for batch in range(7):
        model.train_on_batch(X[batch : batch + 4], Y[batch : batch + 4])
    variables = [*model.variables, *model.optimizer.variables]
    before = arrays(variables)
    found = model.predict(X, verbose=0, callbacks=[averaged])
    score = model.evaluate(X, Y, verbose=0, callbacks=[averaged])
    here = model.predict(X, verbose=0)
    metrics = {id(v) for v in model.metrics_variables}
    for variable, value in zip(variables, before, strict=True):
        if id(variable) not in metrics:
            assert_same(arrays([variable]), [value])

    model.optimizer.finalize_variable_values(model.trainable_variables)
    there = at_the_average(model)
    assert_same([found], [there.predict(X, verbose=0)])
    assert score == pytest.approx(there.evaluate(X, Y, verbose=0), rel=1e-6)
    assert np.abs(np.asarray(found - here, "float32")).max() > 1e-3


@averaging("float32", "accumulation")
def test_before_the_first_update_there_is_no_average(optimizer, dtype):
    model = make_model(optimizer(), dtype)
    plain = model.predict(X, verbose=0)
    assert_same([model.predict(X, verbose=0, callbacks=[EvaluateEMAWeights()])], [plain])
    model.optimizer.build(model.trainable_variables)
    assert_same([model.predict(X, verbose=0, callbacks=[EvaluateEMAWeights()])], [plain])
    if getattr(model.optimizer, "gradient_accumulation_steps", None):
        model.train_on_batch(X, Y)
        before = arrays(model.trainable_variables)
        model.evaluate(X, Y, verbose=0, callbacks=[EvaluateEMAWeights()])
        assert_same(arrays(model.trainable_variables), before)


def test_an_interrupted_evaluation_leaves_training_intact():
    weights = []
    for interrupted, again in ((False, False), (True, False), (True, True)):
        averaged = EvaluateEMAWeights()
        model = make_model(kaf.SGD(0.05, use_ema=True, ema_momentum=0.9))
        for _ in range(3):
            model.train_on_batch(X, Y)
        if interrupted:
            with pytest.raises(KeyboardInterrupt):
                model.evaluate(
                    X, Y, 3, verbose=0, callbacks=[averaged, InterruptAfter(test_batches=2)]
                )
        if again:
            model.evaluate(X, Y, verbose=0, callbacks=[averaged])
        recorder = Recorder()
        fit(model, 1, averaged, recorder)
        weights.append(recorder.states[0])
    for after in weights[1:]:
        assert_same(after, weights[0])


def interrupted(model, averaged):
    with pytest.raises(KeyboardInterrupt):
        model.evaluate(X, Y, 3, verbose=0, callbacks=[averaged, InterruptAfter(test_batches=2)])


def averaged_model():
    model = make_model(kaf.SGD(0.05, use_ema=True, ema_momentum=0.9))
    for _ in range(3):
        model.train_on_batch(X, Y)
    return model


@pytest.mark.parametrize("then", ["fit", "evaluate"])
@pytest.mark.parametrize("another", ["model", "weights", "optimizer"])
def test_what_an_interrupted_evaluation_left_is_for_no_other_weights(then, another):
    averaged, model = EvaluateEMAWeights(), averaged_model()
    interrupted(model, averaged)
    if another == "model":
        model = averaged_model()
    if another == "optimizer":
        model.compile(kaf.SGD(0.05, use_ema=True), "mse")
    model.layers[0].kernel.assign(np.full(model.layers[0].kernel.shape, 0.25))
    expected = arrays(model.trainable_variables)
    if then == "fit":
        model.optimizer.learning_rate.assign(0.0)
        recorder = Recorder()
        fit(model, 1, averaged, recorder)
        expected.insert(0, recorder.states[0][0])  # Keras puts the averages in afterwards
        assert_same(recorder.states[0][:1], [np.full((4, 3), 0.25, "float32")])
    else:
        model.evaluate(X, Y, verbose=0, callbacks=[averaged])
        assert_same(arrays(model.trainable_variables), expected)


class EachBatch(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.weights = []

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(self.model.get_weights())


def test_what_was_evaluated_can_be_what_is_kept(tmp_path):
    """The best weights are the averages, and training goes on as ever."""
    states = []
    for averaged in (EvaluateEMAWeights(), EvaluateEMAWeights(until_epoch_end=True)):
        model = make_model(kaf.AdamW(0.05, use_ema=True, ema_momentum=0.9))
        best = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
        kept = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True)
        recorder = EachBatch()
        history = fit(model, 12, averaged, best, kept, recorder, validation_data=(X + 1, Y))
        states.append(recorder.weights)
        loss = min(history.history["val_loss"])
        assert len(history.epoch) < 12
        found = model.evaluate(X + 1, Y, verbose=0)
        saved = keras.saving.load_model(tmp_path / "best.keras").evaluate(X + 1, Y, verbose=0)
        if averaged.until_epoch_end:
            assert found == pytest.approx(loss, rel=1e-6) and saved == pytest.approx(loss, rel=1e-6)
        else:
            assert found != pytest.approx(loss, rel=1e-3)
    for one, other in zip(*states, strict=True):
        assert_same(one, other)


def test_an_evaluation_after_a_fit_that_was_interrupted_gives_the_weights_back():
    averaged, model = EvaluateEMAWeights(until_epoch_end=True), averaged_model()
    with pytest.raises(KeyboardInterrupt):
        fit(model, 2, averaged, InterruptAfter(epochs=1), validation_data=(X, Y))
    model.evaluate(X, Y, verbose=0, callbacks=[averaged])
    before = arrays(model.trainable_variables)
    model.predict(X, verbose=0, callbacks=[averaged])
    assert_same(arrays(model.trainable_variables), before)


def test_a_layer_that_was_frozen_has_no_average():
    model = make_model(kaf.SGD(0.05, use_ema=True))
    model.layers[0].trainable = False
    model.compile(model.optimizer, "mse")
    model.train_on_batch(X, Y)
    model.layers[0].trainable = True
    averaged = model.evaluate(X, Y, verbose=0, callbacks=[EvaluateEMAWeights()])
    assert averaged == pytest.approx(model.evaluate(X, Y, verbose=0))


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: kaf.Adam(),
        lambda: keras.optimizers.LossScaleOptimizer(kaf.Adam()),
        lambda: keras.optimizers.SGD(),
    ],
)
def test_an_optimizer_without_averages_is_refused(optimizer):
    uncompiled = make_model()
    with pytest.raises(ValueError, match="needs an optimizer with `use_ema=True`. Received: None"):
        uncompiled.predict(X, verbose=0, callbacks=[EvaluateEMAWeights()])
    model = make_model(optimizer())
    with pytest.raises(ValueError, match="needs an optimizer with `use_ema=True`. Received: <.*"):
        model.evaluate(X, Y, verbose=0, callbacks=[EvaluateEMAWeights()])


def test_keras_leaves_the_average_in_the_model_after_predict():
    """Once this fails, Keras is fixed, and the documentation is to say so."""
    model = make_model(kaf.SGD(0.05, use_ema=True, ema_momentum=0.9))
    for _ in range(3):
        model.train_on_batch(X, Y)
    before = arrays(model.trainable_variables)
    model.predict(X, verbose=0, callbacks=[keras.callbacks.SwapEMAWeights()])
    with contextlib.suppress(AssertionError):
        assert_same(arrays(model.trainable_variables), before)
        pytest.fail("keras.callbacks.SwapEMAWeights is fixed")
