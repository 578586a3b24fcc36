"""What is seen of a search: in a terminal, and where the output goes to a file."""

from __future__ import annotations

import io

import pytest

pytest.importorskip("keras_tuner")

from rich.console import Console

from keras_adamfamily.tuning import progress
from keras_adamfamily.tuning.progress import Progress, duration
from tests.studies import WrittenStudy, trial


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def study(optimizers=("AdamW", "SGDW"), **settings):
    settings = {"trials_per_optimizer": 16, "finalist_seeds": 4, **settings}
    return WrittenStudy([], optimizers=list(optimizers), **settings)


def watched(terminal=False, planned=32, **settings):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    return Progress(study(**settings), console, planned)


def picture(shown):
    console = Console(file=io.StringIO(), width=120)
    console.print(shown._picture())
    return console.file.getvalue()


def test_groups_of_trials_give_the_rate_of_the_whole(clock):
    with watched() as shown:
        clock.now = 32.0
        for number in range(16):
            shown.advance(trial(score=0.5 + number / 100, number=number), True)
        text = picture(shown)
        assert "16/40" in text
        assert "30 trials/min  48 s left" in text
        assert "AdamW 0.6500 (16)   SGDW - (0)" in text
        shown.advance(trial("SGDW", None), True)
        shown.advance(trial("SGDW", 0.9, number=1, status="pruned"), True)
        assert "SGDW - (2)" in picture(shown)


def test_finished_trials_of_an_earlier_run_are_not_speed(clock):
    with watched() as shown:
        for number in range(16):
            shown.advance(trial(number=number), False)
        assert "trials/min" not in picture(shown)
        clock.now = 60.0
        shown.advance(trial("SGDW"), True)
        assert "1.0 trials/min  23:00 min left" in picture(shown)
        assert shown.console.file.getvalue().count("/40") == 1


def test_a_new_best_adds_its_fresh_seeds_to_the_total(clock):
    """The runs of a former best are done, those of the new one are still to come."""
    seen = study(trials_per_optimizer=2, finalist_seeds=4)
    old, new = {"AdamW/learning_rate": 0.1}, {"AdamW/learning_rate": 0.2}
    seen.trials.append(trial(score=0.5, hyperparameters=old))
    seen.trials += [trial(role="final", number=n, hyperparameters=old) for n in range(4)]
    more = [trial(score=0.6, number=1, hyperparameters=new)]
    more += [trial("SGDW", number=number) for number in range(2)]
    more += [trial(role="final", number=n, hyperparameters=new) for n in range(4)]
    more += [trial("SGDW", role="final", number=n) for n in range(4)]
    counts = []
    with Progress(seen, Console(file=io.StringIO(), width=120), 4) as shown:
        for one in list(seen.trials):
            shown.advance(one, False)
            counts.append((shown.done, shown.total))
        clock.now = 60.0
        for one in more:
            seen.trials.append(one)
            shown.advance(one, True)
            counts.append((shown.done, shown.total))
            if one is more[0]:
                assert "10:00 min left" in picture(shown)
        assert "16/16" in picture(shown) and "0 s left" in picture(shown)
    assert counts == [(n, 12 if n <= 5 else 16) for n in range(1, 17)]


def test_plain_lines_where_there_is_no_terminal(clock):
    with watched(planned=33) as shown:
        shown.note("vmap, since [a probe] took 1.2 s")
        shown.say("16 lanes of AdamW, epoch 1 of 20")
        shown.advance(trial(cause="[x]"), True)
        clock.now = 29.0
        shown.say("16 lanes of AdamW, epoch 2 of 20")
        clock.now = 31.0
        shown.say("16 lanes of AdamW, epoch 3 of 20")
        shown.say("16 lanes of AdamW, epoch 4 of 20")
        shown.advance(trial("SGDW", 0.7, number=3, status="pruned", epoch=2), True)
    assert shown.console.file.getvalue().splitlines() == [
        "2 optimizers x 16 trials of 2 epochs, then the best of each on 4 fresh seeds  "
        "(jax, val_accuracy)",
        "max_trials=33 is not a multiple of 2: every optimizer gets 16 trials, 32 in all",
        "vmap, since [a probe] took 1.2 s",
        " 1/40  AdamW   val_accuracy 0.5000  learning_rate 0.01  weight_decay 0.1  1.0 s",
        "1/40  16 lanes of AdamW, epoch 3 of 20",
        " 2/40  SGDW    val_accuracy 0.7000, stopped in epoch 2  learning_rate 0.01  "
        "weight_decay 0.1  1.0 s",
    ]


def test_long_names_stay_apart(clock):
    with watched(optimizers=["Adadelta"]) as shown:
        shown.advance(trial("Adadelta", 0.6), True)
    assert "  Adadelta val_accuracy 0.6000  " in shown.console.file.getvalue()


def test_terminal_shows_what_is_going_on(clock):
    with watched(terminal=True) as shown:
        shown.say("16 lanes of AdamW, epoch 5 of 20")
        assert picture(shown).splitlines()[-1].strip() == "16 lanes of AdamW, epoch 5 of 20"
        shown.live.refresh()
        assert "epoch 5 of 20" in shown.console.file.getvalue()
        shown.advance(trial(), True)
    assert "val_accuracy 0.5000" in shown.console.file.getvalue()


def test_direction(clock):
    with watched(direction="min", objective="val_loss") as shown:
        for number, score in enumerate([0.5, 0.3, 0.4]):
            shown.advance(trial(score=score, number=number), True)
        assert "AdamW 0.3000 (3)" in picture(shown)


def test_duration():
    assert [duration(s) for s in (0.4, 59.6, 3599, 7260)] == [
        "0 s",
        "1:00 min",
        "59:59 min",
        "2:01 h",
    ]
