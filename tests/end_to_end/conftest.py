"""Prints the zoo's table when its tests have run."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from rich.table import Table

from contract.modes import MODES


def pytest_terminal_summary(terminalreporter: Any) -> None:
    from tests.end_to_end.test_zoo import RESULTS

    if not RESULTS:
        return
    table = Table("case", *MODES, title="architecture x mode x rung")
    for case, modes in RESULTS.items():
        cells = (modes.get(mode, {}) for mode in MODES)
        table.add_row(case, *(" ".join(r if v == "passed" else r.upper() + "!" for r, v in c.items()) for c in cells))
    console = Console(file=io.StringIO(), width=150)
    console.print(table)
    terminalreporter.write(console.file.getvalue())  # type: ignore[attr-defined]
