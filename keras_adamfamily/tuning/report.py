"""The report: one HTML page, made from the study's folder alone, that needs no network."""

from __future__ import annotations

import dataclasses
import math
import re
import statistics
from html import escape

from keras_adamfamily import registry
from keras_adamfamily.tuning import evidence, figures, leaderboard
from keras_adamfamily.tuning.importance import FEWEST_TRIALS, importance
from keras_adamfamily.tuning.page import Page, table
from keras_adamfamily.tuning.progress import count, decimal, duration, fresh, number, seconds
from keras_adamfamily.tuning.study import Settings, Study
from keras_adamfamily.tuning.trial import OK, PRUNED, SEARCH, TrialResult


def render(study: Study) -> str:
    """The page as a string; equal folders give equal pages."""
    title = f"{study.settings.objective} of {', '.join(study.space.optimizers)}"
    page = Page()
    for part in (
        _leaderboard,
        _best,
        _curves,
        _sensitivity,
        _rate_by_decay,
        _importance,
        _luck,
        _history,
        _facts,
        _cost,
        _failures,
        _trials,
        _method,
        _environment,
    ):
        part(study, page)
    page.parts[:0] = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(_subtitle(study))}</p>',
        f'<p class="verdict">{_emphasized(study.verdict())}</p>',
        _notes(study),
        _tiles(study),
        page.contents(),
    ]
    return page.render(title)


# The head.


def _subtitle(study: Study) -> str:
    settings = study.settings
    planned = settings.trials_per_optimizer * len(study.space.optimizers)
    done = sum(row.trials for row in study.leaderboard())
    return (
        f"{settings.build_model}, {settings.parameters:,} parameters, {settings.dataset_size:,} "
        f"training examples, batch {settings.batch_size}, {settings.epochs} epochs; "
        + (f"{done} trials" if done == planned else f"{done} of {planned} trials so far")
    )


def _emphasized(verdict: str) -> str:
    """The verdict with its first words, those before a colon or a comma, in bold."""
    words = re.split("(?=[:,])", verdict, maxsplit=1)
    return f"<strong>{escape(words[0])}</strong>{escape(''.join(words[1:]))}"


def _notes(study: Study) -> str:
    """What to do about the result."""
    notes = []
    for optimizer in study.space.optimizers:
        best = study.scoring.best_trial(optimizer)
        for argument, ends in study.space.ranges[optimizer].items():
            value = best.short_hyperparameters.get(argument) if best else None
            end = _near_end(value, *ends)
            if end:
                notes.append(
                    f"The best {argument.replace('_', ' ')} of {optimizer}, {number(value)}, lies "
                    f"at the {end} end of its range, {ends[0]:g} to {ends[1]:g}: a wider range "
                    "may hold a better one."
                )
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes soft">{items}</ul>' if items else ""


def _near_end(value: float | None, low: float, high: float, margin: float = 0.05) -> str:
    if value is None:
        return ""
    place = math.log(value / low) / math.log(high / low)
    return "lower" if place < margin else "upper" if place > 1.0 - margin else ""


def _tiles(study: Study) -> str:
    trials = study.trials
    lost = sum(trial.score is None for trial in trials)
    facts = {
        "Optimizers": str(len(study.space.optimizers)),
        "Trials": str(sum(trial.role == SEARCH for trial in trials)),
        "Runs on fresh seeds": str(sum(trial.role != SEARCH for trial in trials)),
        "Training, summed": duration(sum(trial.seconds for trial in trials)),
        "Without a score": str(lost),
    }
    cells = (f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
    return f'<dl class="tiles">{"".join(cells)}</dl>'


# The result.


def _leaderboard(study: Study, page: Page) -> None:
    rows = study.leaderboard()
    names = list(dict.fromkeys(name for row in rows for name in row.hyperparameters))
    headers = ["", "Optimizer", "On fresh seeds", "n", "95 % interval", "In the search"]
    headers += [name.replace("_", " ") for name in names] + ["Seconds a trial", "State", "Trials"]
    cells = [
        [str(row.rank), row.optimizer, fresh(row), str(row.n)]
        + [_between(row.low, row.high), number(row.search_score)]
        + [number(row.hyperparameters.get(name)) for name in names]
        + [seconds(row), _state(row.optimizer), count(row)]
        for row in rows
    ]
    page.section("Leaderboard")
    if any(row.mean is not None for row in rows):
        page.plot(
            figures.forest(rows, study.settings.objective, study.space.optimizers),
            "forest",
            "Means on fresh seeds with intervals; the table below has the numbers.",
            f"{_objective(study)}. Diamonds: the mean over fresh seeds, with its 95 % interval. "
            "Circles: the single runs. Intervals that overlap may still differ, since the runs "
            "are compared in pairs.",
        )
    page.html(table(headers, cells, "Leaderboard", best=rows[0].search_score is not None))
    finals = (
        "On fresh seeds: the best configuration of each optimizer, trained again; "
        "mean ± standard deviation of n runs. This makes the order. "
    )
    page.say(
        f"{finals if study.settings.finalist_seeds else ''}In the search: the score of "
        "its best trial, which was picked for being the best and therefore flatters. Weight decay "
        "is the normalized rate. State: numbers kept per parameter.",
        "soft",
    )
    compared = leaderboard.comparisons(rows)
    if compared:
        page.html(f"<h3>{escape(rows[0].optimizer)} against the others</h3>")
        page.html(
            table(
                ["Optimizer", "Difference", "95 % interval", "p", "Runs", "Told apart"],
                [
                    [c.optimizer, decimal(c.difference, "+", 2), _between(c.low, c.high, "+")]
                    + [number(c.p), f"{c.n} {'pairs' if c.paired else 'each'}"]
                    + ["yes" if c.is_told_apart else "no"]
                    for c in compared
                ],
                "The leader against the others",
            )
        )
        page.say(
            "Difference: the mean of the leader minus that of the other, over runs with the same "
            "seeds. p: permutation test of these pairs, corrected by Holm's method for all "
            f"pairs of optimizers; told apart if p is at most {evidence.SIGNIFICANCE:.2g}. "
            "An interval is for its pair alone, without that correction, so one that leaves out 0 "
            "may come with a no.",
            "soft",
        )


def _best(study: Study, page: Page) -> None:
    if study.leaderboard()[0].search_score is not None:
        page.section("Best configuration")
        code = study.best_code()
        imports = "import keras\n" * ("keras.optimizers" in code)
        code = f"{imports}import keras_adamfamily as kaf\n\noptimizer = {code}"
        page.html(
            f'<pre id="best-code" tabindex="0">{escape(code)}</pre>',
            '<button class="copy" data-of="best-code" aria-live="polite">Copy</button>',
            '<p class="soft">The same from the file: <code>kaf.get("best.json")</code>.</p>',
        )


def _curves(study: Study, page: Page) -> None:
    objective = study.settings.objective
    metrics = [objective] + [m for m in ("loss", "val_loss") if m != objective]
    page.section("Learning curves")
    page.say("Bold: the best trial of each optimizer in the search. Faint: all others.", "soft")
    page.html('<div class="grid">')
    for index, metric in enumerate(metrics):
        title = f"{metric.replace('_', ' ')} by epoch"
        page.plot(figures.learning_curves(study, metric), f"curve-{index}", title)
    page.html("</div>")


# The hyperparameters.


def _sensitivity(study: Study, page: Page) -> None:
    if not figures.is_searched(study, "learning_rate"):
        return
    page.section("Sensitivity to the learning rate")
    page.plot(
        figures.sensitivity(study),
        "sensitivity",
        "Score by learning rate; the table below has the width of the top.",
        "Every trial of the search; the line joins the best of every three neighbors. A broad top "
        "means that the learning rate needs little care. Hollow: stopped early. What lies beyond "
        "the picture is drawn at its edge.",
    )
    page.html(
        table(
            ["Optimizer", "Width of the top, in decades", "Good rates"],
            [[name, *_good_rates(study, name)] for name in study.space.optimizers],
            "Width of the top by optimizer",
        )
    )
    page.say(
        "Width: over how many decades of learning rates the line stays within "
        f"{figures.close(study):.2g} of the optimizer's best, which is half of the way from the "
        "best of all trials to their median. 1 means that a factor of 10 does not matter.",
        "soft",
    )


def _good_rates(study: Study, optimizer: str) -> list[str]:
    found = figures.good_rates(study, optimizer)
    return [f"{found[2]:.2f}", f"{found[0]:.2g} to {found[1]:.2g}"] if found else ["-", "-"]


def _rate_by_decay(study: Study, page: Page) -> None:
    if not all(figures.is_searched(study, name) for name in ("learning_rate", "weight_decay")):
        return
    page.section("Learning rate by weight decay")
    page.say(
        f"Every trial of the search, colored by {_objective(study)}; the scale starts at the "
        "median of all trials, and what is worse has its first color. The surface is a weighted "
        "mean of the trials near by, and is left out where there are none. A cross is a trial "
        "that diverged or failed, a crossed circle one that was stopped early.",
        "soft",
    )
    page.html('<div class="grid">')
    for index, optimizer in enumerate(study.space.optimizers):
        figure = figures.rate_by_decay(study, optimizer)
        title = f"{optimizer}: score by learning rate and weight decay"
        page.plot(figure, f"decay-{index}", title, optimizer)
    page.html("</div>")


def _importance(study: Study, page: Page) -> None:
    found = importance(study)
    if not found:
        return
    page.section("Importance of the hyperparameters")
    few = min(sum(t.optimizer == name and t.role == SEARCH for t in study.trials) for name in found)
    page.plot(
        figures.importance(found),
        "importance",
        "Importance: "
        + "; ".join(
            f"{name}: " + ", ".join(f"{k.replace('_', ' ')} {v:.0%}" for k, v in own.items())
            for name, own in found.items()
        ),
        "How much of the differences between the trials each hyperparameter explains, where the "
        "search has looked: fANOVA of the ranks, by Optuna. "
        + (f"From only {few} trials it is a rough guess." if few < 4 * FEWEST_TRIALS else ""),
    )


# The search.


def _luck(study: Study, page: Page) -> None:
    if max(row.trials for row in study.leaderboard()) < 4:
        return
    page.section("How many trials it takes")
    page.plot(
        figures.best_of(study),
        "best-of",
        "Median best score by number of trials, for each optimizer",
        "If only n of these trials had been drawn at random: the best of them in the median (line) "
        "and from the unlucky to the lucky tenth of the draws (band). Shown up to half of the "
        "trials; beyond, the draws are too much alike. Where the search learned from its trials "
        "instead of drawing at random, the curve flatters it: the history below is what happened.",
    )


def _history(study: Study, page: Page) -> None:
    page.section("History")
    page.html('<div class="grid">')
    page.plot(figures.history(study), "history", "Best score so far by trial of each optimizer")
    if figures.has_clock(study):
        figure = figures.history(study, clock=True)
        page.plot(figure, "clock", "Best score so far by the clock, interruptions included")
    page.html("</div>")


def _facts(study: Study, page: Page) -> None:
    trials = [trial for trial in study.trials if trial.facts]
    if trials:
        names = list(dict.fromkeys(name for trial in trials for name in trial.facts))
        cells = [
            [trial.optimizer, f"{trial.role} {trial.number}", number(trial.score)]
            + [number(trial.facts.get(name)) for name in names]
            for trial in trials
        ]
        headers = ["Optimizer", "Trial", study.settings.objective, *names]
        page.section("What the optimizers found")
        page.html(table(headers, cells, "What the optimizers found"))


def _cost(study: Study, page: Page) -> None:
    cells = []
    for optimizer in study.space.optimizers:
        trials = [trial for trial in study.trials if trial.optimizer == optimizer]
        if not trials:
            continue
        times = sorted(trial.seconds for trial in trials)
        memory = max((trial.memory for trial in trials if trial.memory), default=None)
        cells.append(
            [
                optimizer,
                str(len(trials)),
                f"{statistics.median(times):.2f}",
                f"{times[0]:.2f} to {times[-1]:.2f}",
                duration(sum(times)),
                str(sum(len(next(iter(trial.curves.values()), ())) for trial in trials)),
                "-" if memory is None else f"{memory / 1e6:,.0f} MB",
                ", ".join(dict.fromkeys(trial.strategy for trial in trials)),
            ]
        )
    headers = ["Optimizer", "Runs", "Median seconds", "From, to", "Summed", "Epochs trained"]
    headers += ["Peak memory", "Trained by"]
    page.section("Time and memory")
    page.html(table(headers, cells, "Time and memory"))
    page.say(
        "Runs that are trained together share their time, compilation included. The memory is the "
        "peak of the process until then, so it never falls.",
        "soft",
    )


def _failures(study: Study, page: Page) -> None:
    lost = [trial for trial in study.trials if trial.status not in (OK, PRUNED)]
    page.section("Trials without a score")
    if not lost:
        page.say("None: every trial ended well.")
        return
    cells = [
        [
            trial.optimizer,
            f"{trial.role} {trial.number}",
            trial.status,
            "-" if trial.epoch is None else str(trial.epoch),
            _values(trial),
            trial.cause,
        ]
        for trial in lost
    ]
    headers = ["Optimizer", "Trial", "Status", "Epoch", "Hyperparameters", "Cause"]
    page.html(table(headers, cells, "Trials without a score", sortable=True))


def _trials(study: Study, page: Page) -> None:
    cells = [
        [
            trial.optimizer,
            f"{trial.role} {trial.number}",
            number(trial.score),
            trial.status,
            "-" if trial.epoch is None else str(trial.epoch),
            f"{trial.seconds:.2f}",
            _values(trial),
        ]
        for trial in study.trials
    ]
    headers = ["Optimizer", "Trial", study.settings.objective, "Status", "Epochs", "Seconds"]
    page.section("All trials")
    page.html(
        f"<details><summary>All {len(cells)} trials; a click on a header sorts</summary>",
        table([*headers, "Hyperparameters"], cells, "All trials", sortable=True),
        "</details>",
    )


# How it was done.


def _method(study: Study, page: Page) -> None:
    settings = study.settings
    ranges = [
        [optimizer, argument.replace("_", " "), f"{low:g} to {high:g}"]
        for optimizer, own in study.space.ranges.items()
        for argument, (low, high) in own.items()
    ]
    fixed = [
        [optimizer, argument.replace("_", " "), f"{number(value)} (fixed)"]
        for optimizer, own in study.space.fixed.items()
        for argument, value in own.items()
    ]
    page.section("How it was measured")
    page.say(
        f"The score of a trial is {_objective(study)} after its last epoch, not the best epoch of "
        f"a noisy curve. {_fairness(settings)} {_places(study)} Everything random follows from the "
        f"seed {settings.seed}, and all trials had the same seed for their training. "
        f"{_finals(settings)} The validation data chose the configurations, so measure the winner "
        "on data that it has not seen."
    )
    several = max(2, len(study.space.optimizers))
    page.say(
        f"The intervals are Student's below {evidence.BOOTSTRAP_FROM} runs, where a bootstrap is "
        "too narrow, and the bootstrap's (BCa) from there on. The test counts in how many of all "
        "ways to swap the two optimizers within the pairs (beyond "
        f"{evidence.PERMUTATIONS.bit_length() - 1} pairs, of {evidence.PERMUTATIONS:,} ways at "
        "random) the difference would be as large: it "
        f"assumes no distribution, and to tell {several} optimizers apart it takes at least "
        f"{evidence.runs_needed(several)} fresh seeds. "
        "What varies between the runs is the seed alone. The split of the data and the search are "
        "not repeated, so a difference holds for the configurations that this search has found."
    )
    page.html(table(["Optimizer", "Argument", "Range"], ranges + fixed, "Search space"))
    asked = dataclasses.asdict(settings)
    del asked["space"]
    cells = [[name.replace("_", " "), number(value)] for name, value in asked.items()]
    page.html(table(["Setting", "Value"], cells, "Settings"))


def _fairness(settings: Settings) -> str:
    if settings.pruner is None:
        return "Every optimizer had the same number of trials, of epochs and of searched values."
    return (
        "Every optimizer had the same number of trials and of searched values; "
        f"{settings.pruner} gave up the worse trials before their last epoch."
    )


def _places(study: Study) -> str:
    """Where the trials lay in the ranges."""
    settings = study.settings
    but = ", those apart that were known to be good," if study.space.starting_points else ""
    if settings.sampler in ("qmc", "random"):
        kind = "quasi-random" if settings.sampler == "qmc" else "random"
        return f"The trials{but} lay at {kind} places of the ranges."
    by_tpe = " (or TPE, where a pruner, conditions or many trials rule out Gaussian processes)"
    return (
        f"The first {min(settings.startup_trials, settings.trials_per_optimizer)} of each{but} "
        "lay at quasi-random places of its ranges, what came after them was proposed by "
        f"the sampler {settings.sampler!r}{by_tpe if settings.sampler == 'gp' else ''}."
    )


def _finals(settings: Settings) -> str:
    if not settings.finalist_seeds:
        return (
            "Nothing was trained again on fresh seeds, so the order is that of the best trials, "
            "which were picked for being the best and therefore flatter."
        )
    return (
        "After the search the best configuration of each is trained again on fresh seeds, the same "
        "ones for every optimizer, so that the runs are compared in pairs. A configuration that "
        "was lost on a fresh seed has no mean and cannot win."
    )


def _environment(study: Study, page: Page) -> None:
    page.section("Environment")
    for environment in study.environments:
        cells = [[key, str(value)] for key, value in environment.items()]
        page.html(table(["Part", "Version"], cells, "Environment"))


def _objective(study: Study) -> str:
    better = {"max": "higher", "min": "lower"}[study.settings.direction]
    return f"{study.settings.objective} ({better} is better)"


def _values(trial: TrialResult) -> str:
    return ", ".join(f"{k} {number(v)}" for k, v in trial.short_hyperparameters.items())


def _between(low: float | None, high: float | None, sign: str = "") -> str:
    return "-" if low is None else f"{decimal(low, sign, 2)} to {decimal(high, sign, 2)}"


def _state(optimizer: str) -> str:
    return registry.find(optimizer).state
