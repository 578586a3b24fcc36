"""What the examples share: their command line, their data, and one look for all pictures."""

import argparse
import importlib
import inspect
import json
import sys
import time
from pathlib import Path

import keras
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

STYLE = {
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}
#: One colour per optimizer, the same in every picture (Okabe and Ito's, safe for colour blindness).
COLORS = {
    "SGD": "#0072B2",
    "SGDW": "#56B4E9",
    "Adam": "#D55E00",
    "AdamW": "#009E73",
    "AMSGrad": "#CC79A7",
    "AdamNC": "#E69F00",
    "ADOPT": "#3B7A1E",
    "Adagrad": "#999999",
    "RMSprop": "#8C564B",
    "Adamax": "#7F6DB3",
    "Nadam": "#B58900",
    "NAdamW": "#2AA198",
    "Adadelta": "#555555",
    "SWATS": "#000000",
    "NDAdam": "#A50F7D",
}


def main(module_name: str, experiment, draw) -> None:
    """An example's command line: runs `experiment()`, prints its numbers, saves `draw(results)`.

    `experiment` returns a dictionary whose plain numbers are printed; the picture is
    `<folder>/<name of the example>.png`.
    """
    module = sys.modules[module_name]
    parser = argparse.ArgumentParser(
        description=inspect.getdoc(module), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/examples"), help="folder")
    folder = parser.parse_args().out
    start = time.perf_counter()
    results = experiment()
    print(json.dumps(_numbers(results), indent=2))
    path = save(draw(results), folder / f"{Path(module.__file__).stem}.png")
    print(f"{path} ({time.perf_counter() - start:.0f} s)")


def add_options(parser, defaults: dict, whole: dict) -> None:
    """An option for each default; `whole` says where counts begin, and by how much they grow."""
    for name, default in defaults.items():
        kind = _whole(*whole[name]) if name in whole else type(default)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=f"{default}")


def _whole(least: int, step: int = 1):
    """A type for argparse: the whole numbers `least`, `least + step` and so on."""

    def number(text):
        if int(text) not in range(least, 2**31, step):
            few = f"{least}, {least + step}, {least + 2 * step}"
            raise argparse.ArgumentTypeError(f"must be {few} or so on, not {text}")
        return int(text)

    return number


def save(figure, path: Path) -> Path:
    """Writes a picture, with its folder, and closes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight")
    Image.open(path).convert("RGB").quantize(255).save(path, optimize=True)  # a third of the size
    plt.close(figure)
    return path


def subplots(*args, **kwargs):
    """`plt.subplots` in the style of the examples."""
    with plt.rc_context(STYLE):
        return plt.subplots(*args, layout="constrained", **kwargs)


def _numbers(value):
    """The numbers and words of nested results, rounded; arrays are for the picture."""
    if isinstance(value, dict):
        kept = {str(name): _numbers(item) for name, item in value.items()}
        return {name: item for name, item in kept.items() if item is not None}
    if isinstance(value, str | bool | int):
        return value
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}")
    if isinstance(value, list | tuple) and len(value) <= 12 and all(np.isscalar(v) for v in value):
        return [_numbers(item) for item in value]
    return None


def digits(training: int = 1400, seed: int = 0, noise: float = 0.0):
    """scikit-learn's digits, shuffled: `(x, y), (x_validation, y_validation)`, x in [0, 1].

    `noise` is the fraction of training labels that are replaced by random ones.
    """
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    random = np.random.default_rng(seed)
    order = random.permutation(len(x))
    x, y = (x[order] / 16.0).astype("float32"), y[order].astype("int32")
    wrong = random.random(training) < noise
    y[:training][wrong] = random.integers(0, 10, wrong.sum())
    return (x[:training], y[:training]), (x[training:], y[training:])


def gratings(count: int, seed: int = 0, size: int = 16, noise: float = 0.5):
    """Coloured gratings in noise, `(x, y)`, x in uint8: photographs' stand-in.

    The 10 classes are 5 tilts by 2 widths; a mirror image is of the same class.
    """
    random = np.random.default_rng(seed)
    y, line = random.integers(0, 10, (count, 1, 1)), np.linspace(0, np.pi, size)
    tilt = y % 5 * np.pi / 8 * random.choice([-1, 1], y.shape)
    place = np.cos(tilt) * line + np.sin(tilt) * line[:, None]
    wave = np.sin(np.where(y < 5, 4, 8) * place + random.uniform(0, 2 * np.pi, y.shape))
    colour, grain = (random.normal(size=(count, n, n, 3)) for n in (1, size))
    x = 128 + 40 * (wave[..., None] * colour + noise * grain)
    return np.clip(x, 0, 255).astype("uint8"), y.ravel()


def need_backend(name: str):
    """The backend's package; under another one the example ends with a clear message."""
    if keras.backend.backend() != name:
        sys.exit(f"This example needs KERAS_BACKEND={name}, not {keras.backend.backend()}.")
    return importlib.import_module(name)
