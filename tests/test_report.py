"""The report: right numbers, safe to open, drawn offline in a browser, at any width."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

pytest.importorskip("keras_tuner")

from keras_adamfamily.tuning import figures
from keras_adamfamily.tuning.importance import importance
from keras_adamfamily.tuning.page import _json
from keras_adamfamily.tuning.report import render
from tests.browser import CHROMIUM, Browser
from tests.studies import WrittenStudy, finals, landscape, trial

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"<!--"


@pytest.fixture(scope="module")
def study():
    return landscape()


@pytest.fixture(scope="module")
def page(study):
    return render(study)


def body(page):
    return page.split("<body>")[1]


# What it says.


def test_verdict_comes_first_and_the_table_has_the_numbers(study, page):
    text = re.sub("<[^>]+>", "", body(page))
    assert text.index(study.verdict()) < text.index("Leaderboard")
    for row in study.leaderboard():
        assert f"<td>{row.mean:.4f} ± {row.std:.4f}</td><td>8</td>" in page
        assert f"<td>{row.low:.4f} to {row.high:.4f}</td>" in page
    assert study.best_code().splitlines()[0] in page


def test_equal_studies_give_equal_pages(page):
    assert render(landscape()) == page


def test_headings_captions_and_labels(page):
    levels = [int(level) for level in re.findall(r"<h(\d)", page)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)
    plots = re.findall(r'<div class="plot" id="[^"]+" role="img" aria-label="[^"]+"', page)
    assert len(plots) == page.count("<figcaption>") == page.count('class="plot"') > 10


def test_end_of_a_range_is_pointed_out():
    values = {"AdamW/learning_rate": 1.05e-4, "AdamW/weight_decay": 0.1}
    low = trial("AdamW", 0.9, hyperparameters=values)
    text = body(render(WrittenStudy([low, trial("SGDW", 0.8)])))
    assert "best learning rate of AdamW, 0.000105, lies at the lower end of its range" in text
    assert "best learning rate of SGDW" not in text


@pytest.mark.parametrize("trials", [[], [trial(score=None)], [trial()]])
def test_report_of_little(trials):
    page = render(WrittenStudy(trials, optimizers=["AdamW", "SGDW"]))
    assert "<h2" in page


def test_report_of_many_optimizers_that_minimize():
    names = ("AdamW", "NAdamW", "SGDW", "Adam", "SGD", "AMSGrad", "ADOPT", "Nadam")
    page = render(landscape(names, trials=4, seeds=2, direction="min", objective="val_loss"))
    assert "lower is better" in page


def test_many_optimizers_leave_room_for_the_lines():
    """The legend is above the plot, in rows of two."""
    names = [*("AdamW", "NAdamW", "SGDW", "Adam", "SGD", "AMSGrad", "ADOPT", "Nadam", "Adagrad")]
    few, many = (landscape(some, trials=4, seeds=2) for some in (names[:3], names))
    for draw in (figures.sensitivity, figures.best_of, figures.history):
        assert draw(many).layout.height - draw(few).layout.height == 3 * 28


def test_many_optimizers_are_told_apart():
    """By color, dash and symbol together, as many as there are."""
    looks = {(*figures._line(i).values(), figures._symbol(i)) for i in range(49)}
    marks = {(figures._line(i)["color"], figures._symbol(i)) for i in range(49)}
    assert len(looks) == len(marks) == 49


def test_what_explodes_does_not_hide_the_rest():
    """Here a third of the trials do, without becoming NaN."""
    good = [trial(number=i, score=0.9, curves={"loss": [2.0, 1.0, 0.5]}) for i in range(8)]
    bad = [trial(number=8 + i, score=0.1, curves={"loss": [2.0, 1e9, 1e12]}) for i in range(4)]
    low, high = figures.learning_curves(WrittenStudy(good + bad), "loss").layout.yaxis.range
    assert low < 0.5 and 2.0 <= high < 3.0


def test_a_single_trial_is_seen_in_the_history():
    for line in figures.history(WrittenStudy([trial(finished=2.0)]), clock=True).data:
        assert "markers" in line.mode


def test_labels_of_hyperparameters_are_whole():
    name = 'layer_0/"dropout"_rate_of_the_attention_heads_&_more'
    (label,) = figures.importance({"AdamW": {name: 1.0}}).data[0].y
    assert label.replace("<br>", " ") == name.replace("_", " ").replace("&", "&amp;")
    assert max(map(len, label.split("<br>"))) <= 26


def test_small_scores_are_not_shown_as_zero():
    names = {"AdamW": [3.1e-6, 3.2e-6, 3.4e-6], "SGDW": [5.1e-6, 5.3e-6, 5.2e-6]}
    page = body(render(finals(names, direction="min", objective="val_loss")))
    assert "<td>3.233e-06 ± 1.5e-07</td><td>3</td>" in page
    assert re.search(r"<td>-2e-06</td><td>-2\.\de-06 to -1\.\de-06</td>", page)
    assert "0.0000" not in page


def test_plots_are_strict_json(page):
    text = re.search('<script type="application/json" id="figures">(.*?)</script>', page)[1]
    assert "<" not in text
    drawn = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert {"plot-forest", "plot-sensitivity", "plot-decay-2", "plot-best-of"} <= set(drawn)


def hostile():
    trials = [
        trial(
            optimizer,
            score,
            number=number,
            hyperparameters={
                f"{optimizer}/learning_rate": 10.0 ** (number / 8 - 3),
                f"{optimizer}/weight_decay": 10.0 ** ((3 * number) % 8 / 4 - 2),
                HOSTILE: number,
                "choice": HOSTILE if number % 2 else "b",
            },
            cause=HOSTILE,
            facts={HOSTILE: HOSTILE},
            curves={HOSTILE: [0.1, score], "loss": [1.0, 0.5]},
            strategy=HOSTILE,
            worker=HOSTILE,
        )
        for optimizer in ("AdamW", "SGDW")
        for number, score in enumerate([None, *np.linspace(0.5, 0.9, 11).tolist()])
    ]
    study = WrittenStudy(trials, objective=HOSTILE, build_model=HOSTILE)
    study.environments = [{HOSTILE: HOSTILE}]
    return study


def test_nothing_from_a_study_is_markup():
    page = render(hostile())
    for part in ("<script>alert", "<img", "onerror=alert(2)>'", "</script><script>a"):
        assert part not in page
    assert page.count("<script") == page.count("</script>") == 3
    assert "&lt;script&gt;alert(1)" in page


def test_no_figure_ends_its_script():
    """Plotly escapes as well, but does not promise it."""

    class Raw:
        def to_json(self):
            return json.dumps(HOSTILE)

    text = _json({"a": Raw()})
    assert "<" not in text and json.loads(text) == {"a": HOSTILE}


# The pictures.


def test_good_rates_measure_the_width_of_a_known_top():
    """A tent in the logarithm: a decade to each side falls by 0.2."""
    rates = np.logspace(-4, -2, 60)
    trials = [
        trial(
            score=0.9 - 0.2 * abs(np.log10(rate) + 3),
            number=number,
            hyperparameters={"AdamW/learning_rate": float(rate)},
        )
        for number, rate in enumerate(rates)
    ]
    study = WrittenStudy(trials)
    assert figures.close(study) == pytest.approx(0.05, abs=0.003)
    low, high, width = figures.good_rates(study, "AdamW")
    assert width == pytest.approx(0.5, abs=0.06)
    assert np.log10([low, high]) == pytest.approx([-3.25, -2.75], abs=0.05)


def test_heat_of_a_grid_is_its_cells():
    rates, decays = [1e-4, 1e-3, 1e-2], [0.01, 0.1]
    points = [(r, d, 10 * i + j) for i, r in enumerate(rates) for j, d in enumerate(decays)]
    x, y, z = figures.heat(points[::-1], (0.0, 100.0))
    assert z == [[0, 10, 20], [1, 11, 21]]
    assert x == pytest.approx([10**e for e in (-4.5, -3.5, -2.5, -1.5)])
    assert y == pytest.approx([10**e for e in (-2.5, -1.5, -0.5)])
    _, _, missing = figures.heat(points[:-1], (0.0, 15.0))
    assert missing == [[0, 10, 15], [1, 11, None]]  # beyond the colors counts as their end


def test_heat_is_left_out_where_there_are_no_trials():
    random = np.random.default_rng(0)
    corner = 10 ** np.vstack([random.random((40, 2)) * 0.4, [[2.0, 2.0]]])
    x, y, z = figures.heat([(*point, 0.5) for point in corner], (0.0, 1.0))
    z = np.array(z, float)
    assert np.isnan(z[3:-8, -3:]).all() and np.isnan(z[-3:, 3:-8]).all()
    assert not np.isnan(z[:4, :4]).any()
    assert z[-1, -1] == 0.5
    assert figures.heat([(1.0, 1.0, 0.5)] * 9, (0.0, 1.0)) is None


def test_importance_finds_what_matters():
    random = np.random.default_rng(1)
    trials = [
        trial(
            score=None if rate > 0.9 else float(-((rate - 0.5) ** 2)),
            number=number,
            hyperparameters={
                "AdamW/learning_rate": float(10 ** (-4 + 2 * rate)),
                "AdamW/weight_decay": float(10 ** (-3 + 3 * decay)),
                "constant": 3,
                "choice": "ab"[number % 2],
            },
        )
        for number, (rate, decay) in enumerate(random.random((40, 2)))
    ]
    found = importance(WrittenStudy(trials))["AdamW"]
    assert set(found) == {"learning_rate", "weight_decay", "choice"}
    assert found["learning_rate"] > 0.8
    assert sum(found.values()) == pytest.approx(1.0)
    assert importance(WrittenStudy(trials[:7])) == {}


def test_history_never_falls_and_counts_lost_trials(study):
    for trace in figures.history(study).data:
        values = [y for y in trace.y if y is not None]
        assert values == sorted(values) and len(trace.y) == 32
    clock = figures.history(study, clock=True).data[0]
    assert list(clock.x) == sorted(clock.x) and min(clock.x) >= 0


def test_forest_shows_every_run(study):
    rows = study.leaderboard()
    traces = figures.forest(rows, "accuracy", study.space.optimizers).data
    assert sorted(traces[0].x) == sorted(rows[0].finals.values())
    assert traces[1].x[0] + traces[1].error_x.array[0] == pytest.approx(rows[0].high)
    assert traces[1].x[0] - traces[1].error_x.arrayminus[0] == pytest.approx(rows[0].low)


def test_lost_finals_are_not_in_the_forest():
    page = render(finals({"AdamW": [None, 0.9], "SGDW": [0.5, 0.6]}))
    assert "<td>1 of 2 did not end well</td>" in page


# In a browser.

needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: apt-get install chromium"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def files(tmp_path_factory, page):
    folder = tmp_path_factory.mktemp("report")
    (folder / "good.html").write_text(page, "utf-8")
    (folder / "hostile.html").write_text(render(hostile()), "utf-8")
    return folder


@pytest.fixture
def opened(browser, files):
    """The page at the width of a desktop, with nothing reported yet."""
    browser.problems.clear()
    browser.requests.clear()
    browser.size(1100)
    browser.scheme("light")
    browser.open(files / "good.html")
    return browser


@pytest.mark.slow
@needs_browser
def test_browser_draws_every_plot_offline_and_without_a_complaint(opened, page):
    plots = "[...document.querySelectorAll('.plot')]"
    assert opened.run(f"{plots}.length") == page.count('class="plot"')
    assert opened.run(f"{plots}.every(p => p.querySelector('svg .xtick, svg .ytick'))")
    assert opened.run(f"{plots}.every(p => p.getBoundingClientRect().height > 100)")
    assert opened.problems == []
    assert {address.split(":")[0] for address in opened.requests} <= {"file", "data"}
    assert sum(address.startswith("file:") for address in opened.requests) == 1


@pytest.mark.slow
@needs_browser
def test_browser_shows_a_trial_under_the_pointer(opened):
    for plot, said in (("sensitivity", "learning rate"), ("decay-0", "AdamW, trial")):
        at = opened.run(
            f"(() => {{ const p = document.querySelector('#plot-{plot} .points path');"
            "p.scrollIntoView({block: 'center', behavior: 'instant'});"
            "const r = p.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        opened.move(5, 5)
        opened.move(at[0] - 1, at[1])
        opened.move(*at)
        opened.wait(f"!!document.querySelector('#plot-{plot} .hovertext')", seconds=20)
        assert said in opened.run(f"document.querySelector('#plot-{plot} .hovertext').textContent")


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser_contrast(opened, scheme):
    """Text against the page at least 4.5 : 1, as WCAG asks, in the plots as well."""
    opened.scheme(scheme)
    back = channels(opened.run("getComputedStyle(document.body).backgroundColor"))
    assert (sum(back) < 3 * 128) == (scheme == "dark")
    for selector in ("body", ".soft", "th", "tr.best td", "a", "figcaption"):
        color = opened.run(f"getComputedStyle(document.querySelector('{selector}')).color")
        assert contrast(channels(color), back) >= 4.5, selector
    fill = opened.run("getComputedStyle(document.querySelector('#plot-forest .xtick text')).fill")
    assert contrast(channels(fill), back) >= 4.5


def channels(color):
    return [float(part) for part in re.findall(r"[\d.]+", color)[:3]]


def contrast(a, b):
    def luminance(color):
        linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
        return np.dot(linear, [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("name", ["good", "hostile"])
def test_browser_at_the_width_of_a_phone(browser, files, name):
    browser.size(375, mobile=True)
    browser.open(files / f"{name}.html")
    assert browser.run("document.documentElement.scrollWidth") == 375
    widths = browser.run(
        "[...document.querySelectorAll('.plot svg')].map(s => s.getBoundingClientRect().right)"
    )
    assert widths and max(widths) <= 375


@pytest.mark.slow
@needs_browser
def test_browser_runs_nothing_from_a_study(browser, files):
    browser.problems.clear()
    browser.size(1100)
    browser.call(
        "Page.addScriptToEvaluateOnNewDocument",
        source="window.alerts = []; window.alert = (x) => window.alerts.push(x);",
    )
    browser.open(files / "hostile.html")
    assert browser.run("window.alerts.length") == 0
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert "<script>alert(1)" in browser.run("document.body.innerText")
    assert browser.problems == []


@pytest.mark.slow
@needs_browser
def test_browser_copies_the_code_and_sorts_a_table(opened, study):
    opened.call("Browser.grantPermissions", permissions=["clipboardReadWrite"])
    at = opened.run(
        "(() => { const b = document.querySelector('button.copy');"
        "b.scrollIntoView({block: 'center', behavior: 'instant'});"
        "const r = b.getBoundingClientRect(); return [r.x + 5, r.y + 5]; })()"
    )
    opened.click(*at)
    opened.wait("document.querySelector('button.copy').textContent === 'Copied'", seconds=20)
    assert study.best_code() in opened.run("navigator.clipboard.readText()")

    opened.run("document.querySelector('details').open = true")
    rows = "[...document.querySelector('details tbody').rows]"
    for sort in (sorted, lambda x: sorted(x, reverse=True)):
        opened.run("document.querySelectorAll('details th button')[2].click()")
        values = [
            v
            for v in opened.run(f"{rows}.map(r => parseFloat(r.cells[2].innerText))")
            if v is not None
        ]
        assert values == sort(values) and len(values) == 114


@pytest.mark.parametrize(
    ("settings", "said", "not_said"),
    [
        (
            {"sampler": "gp", "startup_trials": 4, "trials_per_optimizer": 16},
            [
                "number of trials, of epochs and of",
                "The first 4 of each lay at quasi",
                "each is trained again on",
            ],
            ["gave up", "known to be good"],
        ),
        (
            {"sampler": "random", "finalist_seeds": 0},
            ["The trials lay at random places", "Nothing was trained again on fresh seeds"],
            ["quasi-random", "each is trained again", "This makes the order"],
        ),
        (
            {"sampler": "qmc"},
            ["The trials lay at quasi-random places of the ranges"],
            ["proposed by"],
        ),
        (
            {"pruner": "Halving(reduction_factor=3, min_epochs=2)"},
            ["Halving(reduction_factor=3, min_epochs=2) gave up the worse trials"],
            ["of epochs and of searched"],
        ),
    ],
)
def test_how_it_was_measured_is_how_it_was(settings, said, not_said):
    text = body(render(WrittenStudy([trial(), trial("SGDW", 0.4)], **settings)))
    for words in said:
        assert words in text
    for words in not_said:
        assert words not in text


def test_known_settings_are_told():
    study = WrittenStudy([trial()])
    study.space.starting_points = [{"learning_rate": 0.01}]
    assert "of each, those apart that were known to be good, lay at" in body(render(study))
