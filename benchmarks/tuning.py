"""The tuner's figures: speed against KerasTuner, memory, agreement, halving, quality.

    KERAS_BACKEND=jax python -m benchmarks.tuning --tensorflow .venv/tensorflow/bin/python

Each part runs in a process of its own, so that it starts cold; importing is not counted, on either
side. KerasTuner and the population run in turns; given are the median over the turns and the range.
KerasTuner trains a few trials, and its time for all is extrapolated: the first one, and the others
at the mean of those after it. Seconds are also given for a machine on which a further trial of
KerasTuner's takes `RIVAL_S`. See `benchmarks/README.md`.
"""

import argparse
import collections
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

from keras_adamfamily.tuning.tasks import digits_data

TRIALS, EPOCHS, BATCH = 64, 20, 32
#: Seconds of a further trial of KerasTuner's on JAX on the machine that the bounds in seconds are
#: of: 64 trials took 115.4 s there, and 16 took 32.3 s.
RIVAL_S = (115.4 - 32.3) / 48
RATES = {"learning_rate": (1e-4, 3e-2), "weight_decay": (1e-5, 1e-2), "beta_1": (0.8, 0.95)}
PARTS = {}


def part(function):
    """A part of the benchmark: its name, and a function of the arguments that returns figures."""
    PARTS[function.__name__] = function
    return function


def build_mlp(optimizer=None):
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(128, "relu"),
            keras.layers.Dense(128, "relu"),
            keras.layers.Dense(10),
        ]
    )
    return compiled(model, optimizer)


def build_cnn(optimizer=None):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Reshape((8, 8, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, "relu"),
            layers.Dense(10),
        ]
    )
    return compiled(model, optimizer)


def compiled(model, optimizer=None):
    import keras_adamfamily as kaf

    optimizer = optimizer or kaf.AdamW(1e-3, weight_decay=kaf.Decoupled(1e-3))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


BUILD = {"mlp": build_mlp, "cnn": build_cnn}


def values(lanes, seed=0):
    random = np.random.default_rng(seed)
    found = {}
    for name, (low, high) in RATES.items():
        u = random.uniform(size=lanes)
        found[name] = low + (high - low) * u if name == "beta_1" else low * (high / low) ** u
    return found


def population(lanes, build=build_mlp, seeds=None, data=None, **options):
    from keras_adamfamily.tuning.population import Population

    train, validation = data or digits_data()
    return Population(
        build,
        train,
        validation,
        hyperparameters=values(lanes),
        seeds=seeds or [0] * lanes,
        batch_size=BATCH,
        **options,
    )


def by_hand(lanes, data):
    """The training of `population`, from Keras's initial weights, without Keras."""
    from benchmarks.by_hand import trainer

    random = np.random.default_rng(0)
    orders = np.array([random.permutation(len(data[0][1])) for _ in range(EPOCHS)], "int32")
    return trainer(build_mlp().get_weights(), values(lanes), orders, *data, BATCH)


def use_cores(cache=None):
    from keras_adamfamily.tuning import xla

    xla.use_all_cores()
    if cache:
        xla.use_compilation_cache(cache)


def seconds_of(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak_memory():
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


# 1: against KerasTuner, and in all.


@part
def kerastuner(given):
    """RandomSearch as a user writes it, with Keras's AdamW."""
    import keras_tuner

    def build(hp):
        low, high = RATES["learning_rate"]
        rate = hp.Float("learning_rate", low, high, sampling="log")
        decay = hp.Float("weight_decay", *RATES["weight_decay"], sampling="log")
        beta = hp.Float("beta_1", *RATES["beta_1"])
        return build_mlp(keras.optimizers.AdamW(rate, weight_decay=decay, beta_1=beta))

    ends = []

    class Timed(keras_tuner.RandomSearch):
        def on_trial_end(self, trial):
            super().on_trial_end(trial)
            ends.append(time.perf_counter())

    train, validation = digits_data()
    with tempfile.TemporaryDirectory() as folder:
        ends.append(time.perf_counter())
        tuner = Timed(build, "val_loss", given.rival_trials, seed=1, directory=folder)
        tuner.search(*train, validation_data=validation, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    first, *others = np.diff(ends)
    return {"first_s": first, "trial_s": statistics.mean(others), "measured": len(ends) - 1}


@part
def together(given):
    """All trials as lanes of one population, from nothing to their curves."""
    use_cores(given.cache)
    data = digits_data()
    start = time.perf_counter()
    curves = population(TRIALS, data=data).train(EPOCHS)
    best = float(np.nanmin(curves["val_loss"][:, -1]))
    return {"seconds": time.perf_counter() - start, "best": best, "peak_mb": peak_memory()}


@part
def written(given):
    """The same training by hand in JAX, from nothing to its curves."""
    use_cores(given.cache)
    data = digits_data()
    return {"seconds": seconds_of(lambda: by_hand(TRIALS, data)())}


@part
def tune(given):
    """The same number of trials through `tuning.tune`, with its study, finals and report."""
    from rich.console import Console

    from keras_adamfamily import tuning

    train, validation = digits_data()
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as folder:
        use_cores(cache)
        start = time.perf_counter()
        tuning.tune(
            build_mlp,
            train,
            validation,
            directory=folder,
            optimizers=("AdamW",),
            console=Console(quiet=True),
            max_trials=TRIALS,
            epochs=EPOCHS,
            batch_size=BATCH,
            objective="val_loss",
            finalist_seeds=1,
        )
        seconds = time.perf_counter() - start
        size = Path(folder, "study.db").stat().st_size
    return {"seconds": seconds, "kb_a_trial": size / TRIALS / 1e3}


# 2: steady state.


@part
def steady(given):
    """A further trial of 100, and the same training by hand in JAX, in turns."""
    import jax

    use_cores()
    lanes = population(100)

    def ours():
        lanes.restart(lanes.hyperparameters, lanes.seeds)
        return seconds_of(lambda: lanes.train(EPOCHS))

    times = [ours() for _ in range(4)][1:]
    found = {"devices": jax.device_count(), "peak_mb": peak_memory()}

    theirs = by_hand(len(lanes), digits_data())
    theirs()
    turns = [(ours(), seconds_of(theirs)) for _ in range(5)]
    times += [turn[0] for turn in turns]
    found["ms_a_trial"] = 1e3 * min(times) / len(lanes)
    found["ms_by_hand"] = 1e3 * min(turn[1] for turn in turns) / len(lanes)
    found["over_by_hand"] = statistics.median(one / other for one, other in turns)
    return found


# 3: agreement.


@part
def agreement(given):
    """The largest differences of the learning curves."""
    use_cores()
    mapped = population(8).train(3)
    alone = population(8)
    alone.keep([5])
    one = alone.train(3)
    sequential = max(float(np.abs(c[5] - one[name][0]).max()) for name, c in mapped.items())
    rate, decay, beta = (values(8)[name][5] for name in RATES)
    import keras_adamfamily as kaf

    keras.utils.set_random_seed(0)
    model = build_mlp(kaf.AdamW(rate, beta_1=beta, weight_decay=kaf.Decoupled(decay)))
    train, validation = digits_data()
    history = model.fit(*train, BATCH, 1, 0, validation_data=validation).history
    fit = max(abs(history[name][0] - float(c[5, 0])) for name, c in mapped.items())
    return {"sequential": sequential, "fit_float32": fit}


@part
def agreement_float64(given):
    import jax

    jax.config.update("jax_enable_x64", True)
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    mapped, vectorized = (population(8, strategy=s).train(1) for s in ("map", "vmap"))
    return {"vmap": max(float(np.abs(c - vectorized[n]).max()) for n, c in mapped.items())}


# 4: successive halving.


@part
def halving(given):
    use_cores()
    count, rungs = 81, (2, 6, 18, 54)
    whole = population(count)
    start = time.perf_counter()
    table = whole.train(rungs[-1])["val_loss"]
    full_s = time.perf_counter() - start
    whole.restart(whole.hyperparameters, whole.seeds)
    kept, spent, done = np.arange(count), 0, 0
    start = time.perf_counter()
    for rung in rungs:
        losses = whole.train(rung - done)["val_loss"][:, -1]
        spent, done = spent + len(kept) * (rung - done), rung
        if rung < rungs[-1]:
            best = np.argsort(losses)[: len(kept) // 3]
            whole.keep(best)
            kept = kept[best]
    seconds = time.perf_counter() - start
    winner = kept[int(np.nanargmin(losses))]
    return {
        "fewer": count * rungs[-1] / spent,
        "difference": float(np.abs(losses - table[kept, -1]).max()),
        "rank": 1 + int(np.argsort(np.argsort(table[:, -1]))[winner]),
        "of": count,
        "faster": full_s / seconds,
    }


# 5 and 8: strategies against `fit`.


@part
def cnn(given):
    """What is chosen for a CNN, and its time against `fit` in an ordinary process."""
    return against_fit("cnn", 16, 3)


def against_fit(name, lanes, epochs, strategies=()):
    import jax

    from keras_adamfamily.tuning import strategy
    from keras_adamfamily.tuning.data import Data

    use_cores()
    train, validation = (Data.of(data, BATCH) for data in digits_data())
    seeds = [0] * lanes
    start = time.perf_counter()
    choice = strategy.choose(
        BUILD[name],
        train,
        validation,
        hyperparameters=values(lanes),
        seeds=seeds,
        trials=lanes,
        epochs=epochs,
    )
    record = {"probe_s": time.perf_counter() - start, "reason": choice.reason}
    record |= {"chosen": choice.strategy, "devices": jax.device_count()}
    for kind in dict.fromkeys([choice.strategy, *strategies]):
        if kind != "fit":
            group = population(lanes, BUILD[name], strategy=kind, chunk_size=lanes)
            group.train(1)
            start = time.perf_counter()
            group.train(epochs)
            record[kind] = (time.perf_counter() - start) / lanes
    model = BUILD[name]()
    arguments = {**train.fit_arguments(), **validation.validation_arguments(), "verbose": 0}
    model.fit(**arguments)
    start = time.perf_counter()
    model.fit(epochs=epochs, **arguments)
    record["fit"] = time.perf_counter() - start
    record["ratio"] = record[choice.strategy] / record["fit"]
    return record


@part
def gpu(given):
    """Map, vmap and `fit` on the accelerator that JAX finds; nothing where there is none."""
    import jax

    if jax.default_backend() == "cpu":
        return {"skipped": "JAX finds no GPU"}
    return {
        f"{name} {lanes}": against_fit(name, lanes, 3, ("map", "vmap"))
        for name in BUILD
        for lanes in (64, 256, 1024)
    }


# 6: what is found in equally many trials.


@part
def quality(given):
    """Median best validation loss over seeds, digits with 20 % of the labels wrong.

    For each seed the four searches train networks from the same random seed.
    """
    import keras_tuner
    import optuna
    from rich.console import Console

    from keras_adamfamily import tuning
    from keras_adamfamily.tuning.population import Population

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    use_cores()
    names = ("AdamW", "SGDW", "NAdamW", "AMSGrad")  # Adam with decay is AdamW: no two are one
    (x, y), validation = digits_data()
    wrong = np.random.default_rng(0).uniform(size=len(y)) < 0.2
    train = x, np.where(wrong, np.random.default_rng(1).integers(0, 10, len(y)), y)
    space = tuning.SearchSpace(names)
    length = {"batch_size": BATCH, "dataset_size": len(y), "epochs": EPOCHS}
    groups, network_seed = {}, {}

    def loss(name, chosen, seed):
        """One trial, in a population of one lane that is compiled once for each optimizer."""
        lane = {argument: [value] for argument, value in chosen.items()}
        if name not in groups:
            middle = {a: (low * high) ** 0.5 for a, (low, high) in space.ranges[name].items()}
            groups[name] = Population(
                lambda: build_mlp(space.optimizer(name, middle, **length)),
                train,
                validation,
                hyperparameters=lane,
                seeds=[network_seed[seed]],
                batch_size=BATCH,
            )
        groups[name].restart(lane, [network_seed[seed]])
        return float(np.nan_to_num(groups[name].train(EPOCHS)["val_loss"][0, -1], nan=1e3))

    def with_kerastuner(kind, seed):
        hp = keras_tuner.HyperParameters()
        space.sample(hp)
        oracle = kind(objective="val_loss", max_trials=TRIALS, seed=seed + 1, hyperparameters=hp)
        oracle.verbose, found = 0, []
        with tempfile.TemporaryDirectory() as folder:
            oracle._set_project_dir(folder, "quality")
            for _ in range(TRIALS):
                trial = oracle.create_trial("one")
                found.append(loss(*space.sample(trial.hyperparameters), seed))
                oracle.update_trial(trial.trial_id, {"val_loss": found[-1]})
                trial.status = "COMPLETED"
                oracle.end_trial(trial)
        return found

    def with_optuna(seed):
        def objective(trial):
            name = trial.suggest_categorical("optimizer", names)
            ranges = space.ranges[name].items()
            chosen = {
                a: trial.suggest_float(f"{name}/{a}", low, high, log=True)
                for a, (low, high) in ranges
            }
            return loss(name, chosen, seed)

        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        study.optimize(objective, TRIALS)
        return [trial.value for trial in study.trials]

    def with_ours(seed):
        with tempfile.TemporaryDirectory() as folder:
            study = tuning.tune(
                build_mlp,
                train,
                validation,
                directory=folder,
                optimizers=names,
                max_trials=TRIALS,
                epochs=EPOCHS,
                batch_size=BATCH,
                objective="val_loss",
                finalist_seeds=0,
                seed=seed,
                console=Console(quiet=True),
            )
            network_seed[seed] = study.trials[0].seed
            ran = sorted(study.trials, key=lambda trial: trial.number // study.settings.block)
            return [1e3 if trial.score is None else trial.score for trial in ran]

    oracles = keras_tuner.oracles
    contenders = {
        "ours": with_ours,
        "KerasTuner Bayesian": lambda seed: with_kerastuner(
            oracles.BayesianOptimizationOracle, seed
        ),
        "KerasTuner random": lambda seed: with_kerastuner(oracles.RandomSearchOracle, seed),
        "Optuna TPE": with_optuna,
    }
    curves = {name: [] for name in contenders}
    for seed in range(given.seeds):
        for name, search in contenders.items():
            start = time.perf_counter()
            curves[name].append(np.minimum.accumulate(search(seed)))
            print(
                f"seed {seed}, {name}: {curves[name][-1][-1]:.4f} "
                f"({time.perf_counter() - start:.0f} s)",
                file=sys.stderr,
                flush=True,
            )
    median = {name: np.median(of, axis=0) for name, of in curves.items()}
    reached = median["KerasTuner random"][-1]
    return {
        name: {
            "best": float(median[name][-1]),
            "quartiles": np.quantile([curve[-1] for curve in of], (0.25, 0.75)).tolist(),
            "trials_to_random": int(np.argmax(median[name] <= reached)) + 1
            if (median[name] <= reached).any()
            else None,
            "best_by_seed": [float(curve[-1]) for curve in of],
            "median_curve": median[name].tolist(),
        }
        for name, of in curves.items()
    }


# 7: the cost of asking.


@part
def asking(given):
    """Seconds until 16 trials are suggested, and until they are in the database, with 48 told."""
    import keras_tuner

    from keras_adamfamily import tuning
    from keras_adamfamily.tuning.storage import Storage

    claim, suggesting = Storage.claim, []

    def timed_claim(storage, name, limit, propose, *arguments):
        def timed_propose(*of_propose):
            start = time.perf_counter()
            proposed = list(propose(*of_propose))
            suggesting.append(time.perf_counter() - start)
            return proposed

        return claim(storage, name, limit, timed_propose, *arguments)

    Storage.claim = timed_claim

    hp = keras_tuner.HyperParameters()
    tuning.SearchSpace(("AdamW",)).sample(hp)
    with tempfile.TemporaryDirectory() as folder:
        oracle = tuning.OptunaOracle("val_loss", 64, block=16, hyperparameters=hp)
        oracle.verbose = 0
        oracle._set_project_dir(folder, "asking")
        times = []
        while True:
            start = time.perf_counter()
            trials = oracle.create_trials("one", 16)
            times.append(time.perf_counter() - start)
            if not trials:
                break
            for number, trial in enumerate(trials):
                oracle.update_trial(trial.trial_id, {"val_loss": 1.0 / (1 + number)})
                trial.status = "COMPLETED"
                oracle.end_trial(trial)
        oracle.close()
        return {"seconds": suggesting[3], "recorded": times[3]}


# The table.


def run(name, given, python=sys.executable, backend="jax", **arguments):
    """A part in a new process: its figures, or why there are none."""
    command = [python, "-m", "benchmarks.tuning", "--part", name]
    command += ["--rival-trials", str(given.rival_trials), "--seeds", str(given.seeds)]
    for key, value in arguments.items():
        command += [f"--{key}", str(value)]
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        return {"skipped": (done.stderr.strip().splitlines() or ["it failed"])[-1][:200]}
    return json.loads(done.stdout.strip().splitlines()[-1])


#: Parts that are run after one another, again and again: what slows this machine comes and goes.
IN_TURNS = "kerastuner", "together", "written"


def turn(wanted, given):
    """One turn of those wanted, and all but KerasTuner once more with their programs kept."""
    if "kerastuner" in wanted:
        yield "kerastuner", run("kerastuner", given)
        if given.tensorflow:
            options = {"python": given.tensorflow, "backend": "tensorflow"}
            yield "kerastuner_tensorflow", run("kerastuner", given, **options)
    with tempfile.TemporaryDirectory() as cache:
        for name in wanted:
            if name in IN_TURNS[1:]:
                yield name, run(name, given, cache=cache)
                yield f"{name}_warm", run(name, given, cache=cache)


def lines(r):
    """The table, of the records of each part: number, what, found, wanted."""

    def of(name, form, *keys):
        record = r.get(name, [{"skipped": "not asked for"}])[-1]
        if "skipped" in record:
            return f"- ({record['skipped']})"
        return form.format(*(record[key] for key in keys))

    def over_turns(figure, *names):
        turns = zip(*(r.get(name, ()) for name in names), strict=False)
        return [figure(*turn) for turn in turns if not any("skipped" in one for one in turn)]

    def median(found, form):
        if len(found) == 1:
            return f"{found[0]:{form}}"
        return f"{statistics.median(found):{form}} ({min(found):{form}}-{max(found):{form}})"

    def in_all(record):
        if "trial_s" in record:
            return record["first_s"] + (TRIALS - 1) * record["trial_s"]
        return record["seconds"]

    def ratio(one, other, form):
        found = over_turns(lambda one, other: in_all(one) / in_all(other), one, other)
        return median(found, form) if found else "-"

    def absolute(name, key, unit):
        found = over_turns(lambda record: record[key], name)
        rival = over_turns(lambda record: record["trial_s"], "kerastuner")
        if not found or not rival:
            return of(name, f"{{:.1f}} {unit}", key)
        scaled = statistics.median(found) * RIVAL_S / statistics.median(rival)
        return f"{median(found, '.1f')} {unit}, {scaled:.1f} at {RIVAL_S:.2f} s a trial"

    yield 1, "faster than RandomSearch, JAX, cold", ratio("kerastuner", "together", ".0f"), ">= 15"
    yield 1, "... TensorFlow, cold", ratio("kerastuner_tensorflow", "together", ".0f"), ">= 35"
    yield 1, "... JAX, warm cache", ratio("kerastuner", "together_warm", ".0f"), ">= 40"
    yield 1, "64 trials in one population, cold", absolute("together", "seconds", "s"), "< 7 s"
    yield 1, "... warm cache", absolute("together_warm", "seconds", "s"), "~ 2.9 s"
    yield 1, "... by hand in JAX, cold", absolute("written", "seconds", "s"), ""
    yield 1, "... by hand in JAX, warm cache", absolute("written_warm", "seconds", "s"), ""
    yield 1, "... in terms of that one", ratio("together_warm", "written_warm", ".2f"), ""
    yield 1, "tuning.tune, 64 trials and the final", absolute("tune", "seconds", "s"), "< 10 s"
    yield 2, "a trial at K=100", absolute("steady", "ms_a_trial", "ms"), "<= 40 ms"
    yield 2, "... by hand in JAX", of("steady", "{:.1f} ms", "ms_by_hand"), ""
    yield 2, "... in terms of that one", of("steady", "{:.2f}", "over_by_hand"), ""
    yield 2, "... on so many devices", of("steady", "{}", "devices"), "2"
    yield 2, "peak memory", of("steady", "{:.0f} MB", "peak_mb"), "<= 700 MB"
    yield 3, "map against sequential", of("agreement", "{:.1g}", "sequential"), "0"
    yield 3, "fit, float32, an epoch", of("agreement", "{:.1g}", "fit_float32"), "<= 1e-6"
    yield 3, "vmap, float64, an epoch", of("agreement_float64", "{:.1g}", "vmap"), "<= 1e-12"
    yield 4, "halving: trial-epochs saved", of("halving", "{:.1f} x", "fewer"), ">= 8 x"
    yield 4, "... continuation difference", of("halving", "{:.1g}", "difference"), "0"
    yield 4, "... rank of the winner", of("halving", "{} of {}", "rank", "of"), "<= 8 of 81"
    yield 5, "CNN: time / fit", of("cnn", "{:.2f} ({})", "ratio", "chosen"), "<= 1.1"
    for name, record in r.get("quality", [{}])[-1].items():
        form = "{0[best]:.3f}, random's after {0[trials_to_random]}"
        found = f"- ({record})" if name == "skipped" else form.format(record)
        yield 6, f"best loss: {name}", found, "ours least, after half of random's"
    yield 7, "16 suggestions", of("asking", "{:.3f} s", "seconds"), "<= 0.1 s"
    yield 7, "... and in the database", of("asking", "{:.3f} s", "recorded"), ""
    yield 7, "storage a trial", of("tune", "{:.1f} kB", "kb_a_trial"), "<= 5 kB"
    if "gpu" in r:
        yield 8, "GPU", r["gpu"][-1].get("skipped") or json.dumps(r["gpu"][-1]), "auto within 10 %"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=PARTS, help="one part, in this process")
    parser.add_argument("--only", help="parts, separated by commas; all by default")
    parser.add_argument("--tensorflow", help="a Python that has TensorFlow, for KerasTuner on it")
    parser.add_argument("--rival-trials", type=int, default=9, help="that KerasTuner trains")
    parser.add_argument("--turns", type=int, default=3, help="of KerasTuner and the population")
    parser.add_argument("--seeds", type=int, default=10, help="of the comparison of quality")
    parser.add_argument("--cache", help="a folder for compiled programs")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    given = parser.parse_args()
    if given.part:
        print(json.dumps(PARTS[given.part](given)))
        return
    from benchmarks.step import machine

    wanted = given.only.split(",") if given.only else list(PARTS)
    if unknown := [name for name in wanted if name not in PARTS]:
        parser.error(f"{', '.join(unknown)}: no part, of {', '.join(PARTS)}")
    print(machine(), flush=True)
    records = collections.defaultdict(list)

    def record(name, found):
        records[name].append(found)
        print(f"{name}: {json.dumps(found)}", flush=True)

    for _ in range(given.turns):
        for name, found in turn(wanted, given):
            record(name, found)
    for name in wanted:
        if name not in IN_TURNS:
            record(name, run(name, given))
    for number, what, found, want in lines(records):
        print(f"{number}  {what:40s}{found:40s}{want}")
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "tuning.json"
    path.write_text(json.dumps({"machine": machine(), "records": records}, indent=1))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
