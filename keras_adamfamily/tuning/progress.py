"""What is seen while a search runs: a bar with the time left in a terminal, else plain lines."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from keras_adamfamily.tuning.leaderboard import LeaderboardRow
from keras_adamfamily.tuning.study import Study
from keras_adamfamily.tuning.trial import FINAL, OK, PRUNED, SEARCH, TrialResult

SILENCE = 30.0  # seconds after which a log that nobody watches gets a sign of life


class Progress:
    """Shows the trials of a study as they end, one by one or in groups; a context manager.

    Args:
        study: The study, which holds what an earlier run has finished.
        console: Where to write.
        planned: How many trials the user asked for, to say how they are shared.
    """

    def __init__(self, study: Study, console: Console, planned: int):
        self.study = study
        self.console = console
        self.planned = planned
        settings = study.settings
        self.asked = len(study.space.optimizers) * (
            settings.trials_per_optimizer + settings.finalist_seeds
        )
        self.total = self.asked + self._former()
        self.done = self.new = 0
        self.best = dict.fromkeys(study.space.optimizers, math.inf)
        self.counts = dict.fromkeys(study.space.optimizers, 0)
        self.status = ""
        self.bar = Bar(
            SpinnerColumn(), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")
        )
        self.task = self.bar.add_task("starting", total=self.total)
        self.live = Live(
            get_renderable=self._picture, console=console, transient=True, refresh_per_second=4
        )

    def __enter__(self) -> Progress:
        self.start = self.written = time.monotonic()
        self._introduce()
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *exception) -> None:
        self.live.stop()

    def advance(self, trial: TrialResult, is_new: bool) -> None:
        """Counts a trial, and shows it if it was run now."""
        self.done += 1
        self.new += is_new
        if is_new:  # the others were there at the start
            self.total = self.asked + self._former()
        if trial.role == SEARCH:
            self.counts[trial.optimizer] += 1
            if trial.status == OK:
                cost = self.study.scoring.cost(trial.score)
                self.best[trial.optimizer] = min(self.best[trial.optimizer], cost)
        if is_new:
            self._line(self._describe(trial))
        self.bar.update(self.task, completed=self.done, total=self.total, description=self._speed())

    def say(self, text: str) -> None:
        """What is going on now, such as "16 lanes of AdamW, epoch 5 of 20".

        It replaces what was said before. Without a terminal it is written only where nothing else
        was for half a minute.
        """
        self.status = text
        if not self.console.is_terminal and time.monotonic() - self.written >= SILENCE:
            self._line(f"{self.done}/{self.total}  {text}")

    def note(self, text: str) -> None:
        """A line that stays, such as the reason for a strategy."""
        self._line(text)

    def _former(self) -> int:
        """Runs on fresh seeds of what was the best of its optimizer: each new best has its own."""
        finals = sum(trial.role == FINAL for trial in self.study.trials)
        names, scoring = self.study.space.optimizers, self.study.scoring
        return finals and finals - sum(len(scoring.of(FINAL, name)) for name in names)

    def _introduce(self) -> None:
        settings, count = self.study.settings, len(self.study.space.optimizers)
        share, seeds = settings.trials_per_optimizer, settings.finalist_seeds
        text = f"{count} optimizers x {share} trials of {settings.epochs} epochs"
        if seeds:
            text += f", then the best of each on {seeds} fresh seeds"
        self._line(f"{text}  ({settings.backend}, {settings.objective})")
        if share * count != self.planned:
            self._line(
                f"max_trials={self.planned} is not a multiple of {count}: every optimizer gets "
                f"{share} trials, {share * count} in all"
            )
        if self.study.trials:
            self._line(f"going on: {len(self.study.trials)} trials are finished already")

    def _describe(self, trial: TrialResult) -> str:
        values = "  ".join(
            f"{name} {number(value)}" for name, value in trial.short_hyperparameters.items()
        )
        outcome = (
            f"{trial.status}: {trial.cause}"
            if trial.score is None
            else f"{self.study.settings.objective} {decimal(trial.score)}"
        )
        if trial.status == PRUNED:
            outcome += f", stopped in epoch {trial.epoch}"
        role = "fresh seed  " if trial.role == FINAL else ""
        count = f"{self.done:>{len(str(self.total))}}/{self.total}"
        return f"{count}  {trial.optimizer:<7} {outcome}  {role}{values}  {trial.seconds:.1f} s"

    def _picture(self) -> Group:
        """The bar, the best of each optimizer so far, and what is going on."""
        bests = "   ".join(
            f"{name} {'-' if math.isinf(cost) else decimal(self.study.scoring.sign * cost)}"
            f" ({self.counts[name]})"
            for name, cost in self.best.items()
        )
        lines = [Text(line) for line in (f"best so far: {bests}", self.status) if line]
        return Group(self.bar, *lines)

    def _speed(self) -> str:
        """Trials a minute and the time left, by what has ended until now."""
        if not self.new:
            return ""
        seconds = (time.monotonic() - self.start) / self.new
        rate = 60.0 / max(seconds, 1e-9)
        left = duration(seconds * (self.total - self.done))
        shown = f"{rate:.0f}" if rate >= 10.0 else f"{rate:.1f}"
        return f"{shown} trials/min  {left} left"

    def _line(self, text: str) -> None:
        """One line, whatever its length; `Text`, so that brackets in names are not markup."""
        self.written = time.monotonic()
        self.console.print(Text(" ".join(text.splitlines())), soft_wrap=True)


def show_leaderboard(study: Study, console: Console) -> None:
    """Prints the leaderboard and the verdict."""
    show_rows(study.leaderboard(), study.settings.objective, console)
    console.print(Text(study.verdict()), soft_wrap=True)


def show_rows(rows: Sequence[LeaderboardRow], objective: str, console: Console) -> None:
    """Prints a leaderboard, the hyperparameters below it where they do not fit."""
    names = list(dict.fromkeys(name for row in rows for name in row.hyperparameters))
    console.print(Text(f"\n{objective}: mean ± std on fresh seeds, and the search"))
    whole, short = _table(rows, names), _table(rows, [])
    if _width(whole) <= console.width:
        console.print(whole)
        return
    short.width = _width(short)
    console.print(short, crop=False)
    for row in rows:
        values = "  ".join(f"{name} {number(x)}" for name, x in row.hyperparameters.items())
        console.print(Text(f"{row.optimizer}: {values or '-'}"), soft_wrap=True)
    console.print()


def _table(rows: Sequence[LeaderboardRow], names: Sequence[str]) -> Table:
    """A leaderboard with the hyperparameters of these names; no cell is cut."""
    headers = ["", "optimizer", "fresh seeds", "n", "search", *names, "trials", "s/trial"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for header in headers:
        heading = Text(header.replace("_", "\n"))
        table.add_column(heading, vertical="bottom", no_wrap=header != "trials")
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
    return table


def _width(table: Table) -> int:
    """How wide it is when no cell is cut or wrapped."""
    console = Console(width=10_000)
    return Measurement.get(console, console.options, table).maximum


def fresh(row: LeaderboardRow) -> str:
    """The result on fresh seeds: "0.9713 ± 0.0021"."""
    if row.finals_lost:
        return f"{row.finals_lost} of {row.n} did not end well"
    if row.mean is None:
        return "-"
    return decimal(row.mean) + ("" if row.std is None else f" ± {decimal(row.std, digits=2)}")


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


def decimal(value: float, sign: str = "", digits: int = 4) -> str:
    """A score with four decimals; where these would hide it, or it is huge, to so many digits."""
    is_plain = value == 0.0 or 1e-3 <= abs(value) < 1e5
    return format(value, f"{sign}.4f" if is_plain else f"{sign}.{digits}g")


def number(value) -> str:
    """A number to four digits, anything else as it is."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
