"""One optimizer step against the memory-bandwidth floor, and against other libraries.

    OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE KERAS_BACKEND=jax python -m benchmarks.step

Every contender and the floor take turns in each round, so that what else the machine does meets all
alike; a figure is the median over rounds of the time divided by the floor's in the same round, with
the quartiles. The first step's time is mostly tracing and compiling. See `benchmarks/README.md`.
"""

import argparse
import itertools
import json
import math
import os
import platform
import statistics
import time
from pathlib import Path

import keras

import keras_adamfamily as kaf
from benchmarks.contenders import BACKEND, contenders
from benchmarks.floor import mover
from benchmarks.shapes import SHAPES

#: Label: our class, and Keras's common arguments around it.
CASES = {
    "AdamW": ("AdamW", {}),
    "Adam": ("Adam", {}),
    "AMSGrad": ("AMSGrad", {}),
    "SGD": ("SGD", {}),
    "Nadam": ("Nadam", {}),
    "Adagrad": ("Adagrad", {}),
    "RMSprop": ("RMSprop", {}),
    "Adadelta": ("Adadelta", {}),
    "Adamax": ("Adamax", {}),
    "NAdamW": ("NAdamW", {}),
    "SGDW": ("SGDW", {}),
    "AdamNC": ("AdamNC", {}),
    "AdamW+ema": ("AdamW", {"use_ema": True}),
    "AdamW+clipnorm": ("AdamW", {"clipnorm": 1.0}),
    "AdamW+globalclip": ("AdamW", {"global_clipnorm": 1.0}),
    "AdamW+bfloat16": ("AdamW", {"state_dtype": "bfloat16"}),
    "Adam+accumulate4": ("Adam", {"gradient_accumulation_steps": 4}),
}
DEFAULT = [
    "AdamW",
    "Adam+accumulate4",
    "Nadam",
    "AMSGrad",
    "AdamW+globalclip",
    "AdamW+clipnorm",
    "AdamW+ema",
    "AdamW+bfloat16",
    "RMSprop",
    "SGD",
]


def streams(case):
    """Float32 numbers per parameter that a step has to read and to write, beside the gradient's.

    A batch that only accumulates reads the gradient and the total, and writes the total: the mean
    over four batches is about that of one plain step.
    """
    rule, around = CASES[case]
    slots = len(getattr(kaf, rule)(**({"momentum": 0.9} if rule == "SGD" else {})).slots)
    if "state_dtype" in around:
        slots //= 2
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
    times = {name: [] for name in ("floor", *steps)}
    for one in range(rounds + 1):
        for name, step in {"floor": floor, **steps}.items():
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
    """Bars of the ratio to the floor, one panel for each shape."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    shapes = list(dict.fromkeys(r["shape"] for r in records))
    contenders = list(dict.fromkeys(r["contender"] for r in records))
    cases = list(dict.fromkeys(r["case"] for r in records))
    width = 0.8 / len(contenders)
    figure, panels = plt.subplots(
        len(shapes),
        figsize=(max(9, 1.4 * len(cases)), 2.6 * len(shapes)),
        squeeze=False,
        sharex=True,
        layout="constrained",
    )
    for panel, shape in zip(panels[:, 0], shapes, strict=True):
        for k, name in enumerate(contenders):
            here = {r["case"]: r for r in records if (r["shape"], r["contender"]) == (shape, name)}
            xs = [i + (k + 0.5) * width - 0.4 for i, case in enumerate(cases) if case in here]
            rs = [here[case]["ratio"] for case in cases if case in here]
            bars = panel.bar(xs, rs, width, label=name)
            panel.bar_label(bars, fmt="%.1f", fontsize="x-small")
        panel.axhline(1.0, color="black", linewidth=0.8)
        panel.set_xticks(range(len(cases)), cases)
        panel.tick_params(labelbottom=True)
        panel.set(title=f"{shape}: time of one step", ylabel="times the bandwidth floor")
        panel.set_yscale("log")
        panel.margins(y=0.15)
    panels[0, 0].legend(fontsize="small", ncols=len(contenders))
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


def run(cases, shapes, rounds, seconds):
    """The records of cases by shapes, printed as they come; no case is started after `seconds`."""
    records = []
    for case, shape in in_time(itertools.product(cases, shapes), seconds):
        new = measure(case, shape, rounds)
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
    parser.add_argument("--cases", default=",".join(DEFAULT), help=f"of {', '.join(CASES)}")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=270, help="starts no case after that")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    given = parser.parse_args()
    print(machine())
    records = run(given.cases.split(","), given.shapes.split(","), given.rounds, given.seconds)
    write(given.out, f"step-{BACKEND}", records, step=records)


if __name__ == "__main__":
    main()
