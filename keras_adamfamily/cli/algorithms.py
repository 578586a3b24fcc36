"""`adamfamily list`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from keras_adamfamily.cli.common import EXIT_CODES, app, console_of_output, print_json


@app.command("list", epilog=EXIT_CODES)
def list_algorithms(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the algorithms: name, paper, state per parameter, what each fixes."""
    from keras_adamfamily import registry

    if as_json:
        print_json([_described(record) for record in registry.RECORDS])
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in ("name", "state", "paper", "what it is for"):
        table.add_column(header, no_wrap=header == "name")
    for record in registry.RECORDS:
        table.add_row(record.name, record.state, record.paper, record.fixes)
    console = console_of_output()
    console.print(table)
    console.print("state: numbers kept for each parameter, in the default configuration")


def _described(record) -> dict[str, Any]:
    names = ("name", "title", "paper", "fixes", "aliases")
    names += ("state_per_parameter", "state_per_vector")
    ranges = ("learning_rate", "weight_decay")
    return {name: getattr(record, name) for name in names} | {
        f"{name}_range": list(getattr(record, name)) for name in ranges
    }
