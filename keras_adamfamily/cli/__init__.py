"""The command `adamfamily`: list the algorithms, search, look at studies, and measure regret."""

from __future__ import annotations

import sys
import traceback

try:
    from keras_adamfamily.cli import algorithms, regret, search, studies  # noqa: F401 (registers)
    from keras_adamfamily.cli.common import FAILED_RUN, WRONG_USAGE, Usage, app
except ImportError as error:
    sys.exit(
        f"adamfamily: error: the command needs {error.name}: pip install 'keras-adamfamily[tuning]'"
    )


def main() -> None:
    """Runs the command; an error is one line on stderr and an exit code, not a traceback."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        code = app(arguments or ["--help"], standalone_mode=False, prog_name="adamfamily")
    except Exception as error:
        if len(arguments) < len(sys.argv) - 1:
            traceback.print_exc()
        code, message = _explain(error)
        print(f"adamfamily: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def _explain(error: Exception) -> tuple[int, str]:
    """The exit code and the message that an exception stands for."""
    if hasattr(error, "format_message"):  # an option that Typer does not accept
        return WRONG_USAGE, error.format_message()
    if isinstance(error, (RuntimeError, ImportError, ConnectionError)):
        return FAILED_RUN, str(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        return WRONG_USAGE, f"{error.filename}: {error.strerror}"
    if isinstance(error, (Usage, ValueError, TypeError, OSError)):
        return WRONG_USAGE, str(error)
    # Of the database, such as a disk that is full; Optuna's own error says something else.
    cause = getattr(error, "orig", None) or getattr(error.__cause__, "orig", None)
    if cause is None:
        return FAILED_RUN, f"{type(error).__name__}: {error}; --debug shows where"
    return FAILED_RUN, (
        f"the study's database failed: {cause}. All trials that had ended are in it: once it works "
        "again, the same command goes on. --debug shows where it failed"
    )
