"""Which backend Keras loads where nobody has said so."""

import importlib.util
import json
import os
import sys
from pathlib import Path


def choose_installed_backend() -> None:
    """Has Keras use an installed backend if the one it would take by default is missing.

    Keras takes TensorFlow unless the environment variable `KERAS_BACKEND` or its `keras.json` names
    another, and fails to import where that is not installed. An explicit choice is left alone.
    """
    if "keras" in sys.modules or os.environ.get("KERAS_BACKEND"):
        return
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        default = json.loads((home / "keras.json").read_text("utf-8"))["backend"]
    except (OSError, ValueError, KeyError, TypeError):
        default = "tensorflow"
    for backend in (default, "jax", "torch", "tensorflow"):
        if importlib.util.find_spec(backend) is not None:
            os.environ["KERAS_BACKEND"] = backend
            return
    raise ImportError(
        "keras_adamfamily needs one of Keras's backends, and none is installed: "
        "pip install 'keras-adamfamily[jax]' (or [tensorflow], or [torch])"
    )
