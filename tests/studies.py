"""Studies as if they had run: made of trials alone, without training."""

import dataclasses
import types
from pathlib import Path

import numpy as np

from keras_adamfamily import tuning
from keras_adamfamily.tuning.study import Settings, Study


class WrittenStudy(Study):
    """What `Study` is to its readers, without a folder behind it."""

    settings = space = trials = environments = directory = None
    storage = types.SimpleNamespace(files=[])

    def __init__(self, trials, directory="runs/written", optimizers=None, **settings):
        names = optimizers or list(dict.fromkeys(trial.optimizer for trial in trials))
        self.directory = Path(directory)
        self.space = tuning.SearchSpace(names)
        self.settings = Settings(
            **{
                "space": self.space.get_config(),
                "objective": "val_accuracy",
                "direction": "max",
                "trials_per_optimizer": max(
                    [1, *(t.number + 1 for t in trials if t.role == "search")]
                ),
                "epochs": 2,
                "batch_size": 16,
                "dataset_size": 64,
                "finalist_seeds": 3,
                "seed": 0,
                "build_model": "module.build_model",
                "parameters": 12,
                "data": "0123",
                "backend": "jax",
                "sampler": "tpe",
                "startup_trials": 4,
                "block": 4,
                "pruner": None,
                "training": {"callbacks": [], "class_weight": {}, "evaluate_average": False},
                **settings,
            }
        )
        self.trials = trials
        self.environments = [{"keras": "3.15.1", "cores": 2}]


def trial(optimizer="AdamW", score=0.5, *, role="search", number=0, **changes):
    """A trial; without a score it has diverged."""
    lost = score is None
    return dataclasses.replace(
        tuning.TrialResult(
            optimizer=optimizer,
            role=role,
            number=number,
            seed=number if role == "search" else 1000 + number,
            hyperparameters={
                f"{optimizer}/learning_rate": 0.01,
                f"{optimizer}/weight_decay": 0.1,
            },
            status="diverged" if lost else "ok",
            score=score,
            epoch=2,
            cause="loss not finite" if lost else None,
            seconds=1.0,
            curves={"loss": [1.0, None if lost else 0.9], "val_accuracy": [0.1, score]},
        ),
        **changes,
    )


def finals(scores, **settings):
    """A study of one trial per optimizer; `scores` gives those on fresh seeds, by optimizer."""
    trials = [trial(optimizer) for optimizer in scores]
    for optimizer, own in scores.items():
        trials += [
            trial(optimizer, score, role="final", number=number) for number, score in enumerate(own)
        ]
    runs = max(map(len, scores.values()))
    return WrittenStudy(trials, **{"finalist_seeds": runs, **settings})


def landscape(optimizers=("AdamW", "NAdamW", "SGDW"), trials=32, seeds=8, epochs=20, **settings):
    """A study with everything in it: a peak in rate and decay, noise, pruned and lost trials."""
    random, found, clock = np.random.default_rng(7), [], 1.8e9
    ranges = tuning.SearchSpace(optimizers).ranges
    places = random.random((trials, 2))
    for number in range(trials):
        for index, name in enumerate(optimizers):
            rate, decay = (
                low * (high / low) ** place
                for (low, high), place in zip(ranges[name].values(), places[number], strict=True)
            )
            x, y = places[number] - (0.6, 0.5)
            final = 0.97 - 0.004 * index - (0.9 + 0.5 * index) * x**2 - 0.1 * y**2
            final += 0.004 * random.normal()
            clock += random.exponential(1.5)
            found.append(_run(name, "search", number, rate, decay, final, epochs, clock, random, x))
    study = WrittenStudy(found, epochs=epochs, finalist_seeds=seeds, **settings)
    for number in range(seeds):
        luck = 0.004 * random.normal()
        for index, name in enumerate(optimizers):
            best = study.scoring.best_trial(name).short_hyperparameters
            final = 0.965 - 0.0005 * index**3.5 + luck + 0.0015 * random.normal()
            clock += 1.5
            found.append(
                _run(
                    name,
                    "final",
                    number,
                    best["learning_rate"],
                    best["weight_decay"],
                    final,
                    epochs,
                    clock,
                    random,
                )
            )
    return study


def _run(name, role, number, rate, decay, final, epochs, clock, random, x=0.0):
    steps = np.arange(1, epochs + 1)
    accuracy = final - (final - 0.1) * np.exp(-steps / 3.0) + 0.003 * random.normal(size=epochs)
    loss = 2.3 * np.exp(-steps / 4.0) + 0.05 + (1 - final) * 0.5
    status, last = "ok", epochs
    if x > 0.33:
        status, last = "diverged", 2
    elif x < -0.45:
        status, last = "pruned", 6
    curves = {
        "loss": [float(v) for v in loss[:last]],
        "val_loss": [float(v * 1.1 + 0.02) for v in loss[:last]],
        "val_accuracy": [float(v) for v in accuracy[:last]],
    }
    if status == "diverged":
        curves["loss"][-1] = None
    return trial(
        name,
        None if status == "diverged" else curves["val_accuracy"][-1],
        role=role,
        number=number,
        hyperparameters={
            f"{name}/learning_rate": float(rate),
            f"{name}/weight_decay": float(decay),
        },
        status=status,
        epoch=last,
        cause="loss not finite" if status == "diverged" else None,
        seconds=float(1.4 + 0.3 * random.random()),
        curves=curves,
        strategy="fit" if role == "final" else "vmap",
        memory=int(4.2e8 + 1e6 * number),
        finished=float(clock),
        worker="one",
    )
