"""One optimizer step against the memory-bandwidth floor, and against other libraries.

    OMP_NUM_THREADS=2 KERAS_BACKEND=jax python -m benchmarks.step

Every contender and the floor take turns in each round, so that what else the machine does meets all
alike; a figure is the median over rounds of the time divided by the floor's in the same round, with
the quartiles. The first step's time is mostly tracing and compiling. See `benchmarks/README.md`.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import os
import platform
import random
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import keras
import numpy as np

import keras_adamfamily as kaf
from benchmarks.contenders import BACKEND, KERAS_FORM, contenders
from benchmarks.floor import mover
from benchmarks.shapes import SHAPES

AROUND = {
    "ema": {"use_ema": True},
    "clipnorm": {"clipnorm": 1.0},
    "globalclip": {"global_clipnorm": 1.0},
    "bfloat16": {"state_dtype": "bfloat16"},
    "float8": {"state_dtype": "mixed_float8"},
    "accumulate4": {"gradient_accumulation_steps": 4},
}
#: Label: our class, and Keras's common arguments around it.
CASES = {name: (name, {}) for name in kaf.names()} | {
    f"{rule}+{around}": (rule, arguments)
    for rule in ("AdamW", "Nadam")
    for around, arguments in AROUND.items()
}
MODELS = [shape for shape in SHAPES if shape != "small161"]
#: What is measured by default: AdamW and Keras's arguments on all models, the other rules on two.
DEFAULT = [
    *itertools.product([case for case in CASES if case.startswith("AdamW")], MODELS),
    ("AdamW", "small161"),
    *itertools.product([name for name in kaf.names() if name != "AdamW"], ("resnet50", "mlp")),
]


def streams(case):
    """Float32 numbers per parameter that a step has to read and to write, beside the gradient's.

    A batch that only accumulates reads the gradient and the total, and writes the total: the mean
    over four batches is about that of one plain step.
    """
    rule, around = CASES[case]
    optimizer = getattr(kaf, rule)(**KERAS_FORM.get(rule, {}))
    optimizer.build([keras.Variable(np.ones((8, 8)), name="kernel")])
    slots = sum(tuple(variable.shape) == (8, 8) for variable in optimizer.variables)
    if "state_dtype" in around:
        slots //= 2  # in a byte a little less
    reads, writes = 2 + slots, 1 + slots
    if "use_ema" in around:
        reads, writes = reads + 1, writes + 1
    if "clipnorm" in around or "global_clipnorm" in around:
        reads += 1  # the norm comes first
    return reads, writes


def seconds(step, count):
    start = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - start) / count


def peak_memory(step):
    """Bytes that a step needs beyond what is allocated before it; None where it can't be read."""
    if BACKEND == "torch":
        import torch

        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            step()
            return torch.cuda.max_memory_allocated() - before
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        step()
        return max(0, _status("VmHWM") - before)
    except (OSError, KeyError):
        return None


def _status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(dict(line.split(":", 1) for line in lines)[key].split()[0])


def bytes_per_parameter(step, size):
    """What XLA's own cost analysis says that the compiled step moves; JAX alone tells."""
    if not hasattr(step, "lowered"):
        return None
    cost = step.lowered().compile().cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    return cost["bytes accessed"] / size


def measure(case, shape_name, rounds):
    """One record for each contender."""
    rule, around = CASES[case]
    shapes = SHAPES[shape_name]
    size = sum(map(math.prod, shapes))
    count = 4 if size > 1e6 and "accumulate" in case else 1 if size > 1e6 else 40
    steps, first = {}, {}
    for name, make in contenders(rule, **around).items():
        steps[name] = make(shapes)
        first[name] = seconds(steps[name], 1)
    floor, kind = mover(size, *streams(case))
    turns = list({"floor": floor, **steps}.items())
    times = {name: [] for name, _ in turns}
    order = random.Random(0)
    for one in range(rounds + 1):
        order.shuffle(turns)  # who comes after whom matters
        for name, step in turns:
            time.sleep(0.02)  # OpenMP's threads wait awake for a while, and take a core
            elapsed = seconds(step, count)
            if one:  # the first round warms up
                times[name].append(elapsed)
    records = []
    for name, step in steps.items():
        ratios = [t / f for t, f in zip(times[name], times["floor"], strict=True)]
        low, ratio, high = statistics.quantiles(ratios, n=4)
        median = statistics.median(times[name])
        records.append(
            {
                "shape": shape_name,
                "case": case,
                "contender": name,
                "ms": 1e3 * median,
                "ratio": ratio,
                "quartiles": [low, high],
                "first_s": max(0.0, first[name] - median),
                "peak_mb": (m := peak_memory(step)) and m / 1e6,
                "bytes_per_parameter": bytes_per_parameter(step, size),
                "floor": kind,
                "floor_ms": 1e3 * statistics.median(times["floor"]),
            }
        )
    return records


def table(records):
    def number(x, form):
        return "-" if x is None else format(x, form)

    for r in records:
        low, high = r["quartiles"]
        yield (
            f"{r['shape']:9s}{r['case']:18s}{r['contender']:18s}{r['ms']:9.3f} ms "
            f"{r['ratio']:6.2f} x floor ({low:.2f}-{high:.2f})  first {r['first_s']:5.1f} s  "
            f"peak {number(r['peak_mb'], '.0f'):>5s} MB  "
            f"XLA {number(r['bytes_per_parameter'], '.0f'):>3s} B/parameter"
        )


def draw(records, path):
    """A panel for each shape, a line for each case, a point for each contender."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    cases = {}
    for r in records:
        cases.setdefault(r["shape"], {}).setdefault(r["case"], []).append(r)
    contenders = list(dict.fromkeys(r["contender"] for r in records))
    marks = {
        name: {"color": f"C{k}", "marker": "o" if name.startswith("ours") else "DsPX^v"[k % 6]}
        for k, name in enumerate(contenders)
    }
    figure, panels = plt.subplots(
        len(cases),
        figsize=(9, 1.5 + 0.26 * sum(len(of) + 2 for of in cases.values())),
        squeeze=False,
        sharex=True,
        height_ratios=[len(of) + 1 for of in cases.values()],
        layout="constrained",
    )
    for panel, (shape, of) in zip(panels[:, 0], cases.items(), strict=True):
        for line, rs in enumerate(of.values()):
            for r in sorted(rs, key=lambda r: r["contender"].startswith("ours")):
                size = 45 if r["contender"].startswith("ours") else 25
                panel.scatter(r["ratio"], line, s=size, zorder=2, **marks[r["contender"]])
        panel.axvline(1.0, color="black", linewidth=0.8)
        panel.set_yticks(range(len(of)), of)
        panel.set_ylim(len(of) - 0.5, -0.5)
        panel.set_xscale("log")
        panel.set_title(shape, loc="left", fontsize="medium")
        panel.grid(alpha=0.3, which="both")
        panel.tick_params(labelbottom=True)
    ticks = [0.5, 1, 1.5, 2, 3, 5, 10, 20, 50]
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.set_xticks([], minor=True)
    panel.set_xlabel("time of one step, in units of the bandwidth floor (mlp: mostly overhead)")
    for name in contenders:
        panels[0, 0].scatter([], [], label=name, **marks[name])
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    figure.savefig(path, dpi=100)


def machine():
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "XLA_FLAGS")
    return {
        "backend": BACKEND,
        "keras": keras.__version__,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        **{name: os.environ.get(name) for name in names},
    }


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def run(pairs, rounds, seconds):
    """The records of pairs of a case and a shape, printed as they come; none after `seconds`."""
    records = []
    # TensorFlow keeps 1 GB of a case for as long as the process lasts.
    fresh = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=4)
    with fresh:
        for case, shape in in_time(pairs, seconds):
            new = fresh.submit(measure, case, shape, rounds).result()
            records += new
            print(*table(new), sep="\n", flush=True)
    return records


def in_time(pairs, seconds):
    """What comes first of `pairs`, until `seconds` have passed; what is left out is said."""
    start = time.perf_counter()
    for pair in pairs:
        if time.perf_counter() - start > seconds:
            print(f"out of time: {' '.join(reversed(pair))} left out (--seconds)")
        else:
            yield pair


def write(folder, name, drawn, **results):
    """JSON with the machine, and a picture of the records of steps in `drawn`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **results}, indent=1))
    print(f"written to {path}")
    try:
        if drawn:
            draw(drawn, path.with_suffix(".png"))
    except ImportError:
        print("matplotlib is not installed: no picture")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", help=f"of {', '.join(CASES)}")
    parser.add_argument("--shapes", default=",".join(SHAPES), help="by default all")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=480, help="starts no case after that")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    given = parser.parse_args()
    print(machine())
    shapes = given.shapes.split(",")
    cases = given.cases.split(",") if given.cases else []
    if unknown := [x for x in cases if x not in CASES] + [x for x in shapes if x not in SHAPES]:
        parser.error(f"{', '.join(unknown)}: neither a case nor a shape, which --help lists")
    pairs = [(case, shape) for case, shape in DEFAULT if shape in shapes]
    if cases:
        pairs = itertools.product(cases, shapes)
    records = run(pairs, given.rounds, given.seconds)
    write(given.out, f"step-{BACKEND}", records, step=records)


if __name__ == "__main__":
    main()
