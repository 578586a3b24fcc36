"""What is seen while a search runs: a bar with the time left in a terminal, else plain lines."""

from __future__ import annotations

import time

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from keras_adamfamily.tuning.leaderboard import LeaderboardRow
from keras_adamfamily.tuning.study import Study
from keras_adamfamily.tuning.trial import FINAL, OK, TrialResult


class Progress:
    """Shows the trials of a study as they end; a context manager.

    Args:
        study: The study, which holds what an earlier run has finished.
        console: Where to write.
        max_trials: What the user asked for, to say how it is shared.
    """

    def __init__(self, study: Study, console: Console, max_trials: int):
        self.study = study
        self.console = console
        self.max_trials = max_trials
        settings = study.settings
        self.total = len(study.space.optimizers) * (
            settings.trials_per_optimizer + settings.finalist_seeds
        )
        self.done = self.new = 0
        self.best: float | None = None
        self.bar = Bar(
            SpinnerColumn(),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Progress:
        self._introduce()
        self.start = time.monotonic()
        self.bar.start()
        self.task = self.bar.add_task("starting", total=self.total)
        return self

    def __exit__(self, *exception) -> None:
        self.bar.stop()

    def advance(self, trial: TrialResult, is_new: bool) -> None:
        """Counts a trial, and shows it if it was run now."""
        self.done += 1
        self.new += is_new
        scoring = self.study.scoring
        self.best = min(self.best, trial.score, key=scoring.cost)
        if is_new:
            self._line(self._describe(trial))
        self.bar.update(self.task, completed=self.done, description=self._summary())

    def _introduce(self) -> None:
        settings, count = self.study.settings, len(self.study.space.optimizers)
        share, seeds = settings.trials_per_optimizer, settings.finalist_seeds
        text = f"{count} optimizers x {share} trials of {settings.epochs} epochs"
        if seeds:
            text += f", then the best of each on {seeds} fresh seeds"
        self._line(f"{text}  ({settings.backend}, {settings.objective})")
        if share * count != self.max_trials:
            self._line(
                f"max_trials={self.max_trials} is not a multiple of {count}: every optimizer gets "
                f"{share} trials, {share * count} in all"
            )
        if self.study.trials:
            self._line(f"going on: {len(self.study.trials)} trials are finished already")

    def _describe(self, trial: TrialResult) -> str:
        values = "  ".join(
            f"{name} {number(value)}" for name, value in trial.short_hyperparameters.items()
        )
        if trial.status == OK:
            outcome = f"{self.study.settings.objective} {trial.score:.4f}"
        else:
            outcome = f"{trial.status}: {trial.cause}"
        role = "fresh seed  " if trial.role == FINAL else ""
        count = f"{self.done:>{len(str(self.total))}}/{self.total}"
        return f"{count}  {trial.optimizer:<8}{outcome}  {role}{values}  {trial.seconds:.1f} s"

    def _summary(self) -> str:
        best = "none yet" if self.best is None else f"{self.best:.4f}"
        elapsed = time.monotonic() - self.start
        if not self.new:
            return f"best {best}"
        seconds = elapsed / self.new
        left = int(seconds * (self.total - self.done))
        return f"best {best}  {60 / seconds:.0f} trials/min  {left // 60}:{left % 60:02d} left"

    def _line(self, text: str) -> None:
        """One line, whatever its length; `Text`, so that brackets in names are not markup."""
        self.console.print(Text(text), soft_wrap=True)


def show_leaderboard(study: Study, console: Console) -> None:
    """Prints the leaderboard and the verdict."""
    rows = study.leaderboard()
    names = list(dict.fromkeys(name for row in rows for name in row.hyperparameters))
    headers = ["", "optimizer", "fresh seeds", "n", "search", *names, "trials", "s/trial"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for header in headers:
        table.add_column(Text(header.replace("_", "\n")), vertical="bottom")
    for row in rows:
        values = [number(row.hyperparameters.get(name)) for name in names]
        cells = [
            str(row.rank),
            row.optimizer,
            fresh(row),
            str(row.n),
            number(row.search_score),
            *values,
        ]
        table.add_row(*map(Text, [*cells, count(row), seconds(row)]))
    console.print(Text(f"\n{study.settings.objective}: mean ± std on fresh seeds, and the search"))
    console.print(table)
    console.print(Text(study.verdict()), soft_wrap=True)


def fresh(row: LeaderboardRow) -> str:
    """The result on fresh seeds: "0.9713 ± 0.0021"."""
    if row.finals_lost:
        return f"{row.finals_lost} of {row.n} did not end well"
    if row.mean is None:
        return "-"
    return f"{row.mean:.4f}" + ("" if row.std is None else f" ± {row.std:.4f}")


def count(row: LeaderboardRow) -> str:
    """The number of trials and what became of them: "8, 1 diverged"."""
    lost = {"pruned": row.pruned, "diverged": row.diverged, "failed": row.failed}
    return ", ".join([str(row.trials), *(f"{n} {what}" for what, n in lost.items() if n)])


def seconds(row: LeaderboardRow) -> str:
    """The median time of a trial: "1.6"."""
    return "-" if row.seconds is None else f"{row.seconds:.1f}"


def duration(total: float) -> str:
    """A time to read: "42 s", "3:05 min", "2:10 h"."""
    whole = round(total)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def number(value) -> str:
    """A number to four digits, anything else as it is."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
