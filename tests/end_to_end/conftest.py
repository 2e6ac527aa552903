"""Prints the zoo's table when its tests have run, and keeps it where UPDATE_ZOO is set."""

from __future__ import annotations

import io
import json
import os
from typing import Any

from rich.console import Console
from rich.table import Table

from contract.modes import MODES


def pytest_terminal_summary(terminalreporter: Any) -> None:
    from tests.end_to_end.test_zoo import CASES, KNOWN

    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, ())]
    found = [value for report in reports for name, value in report.user_properties if name == "zoo"]
    results = {case: {m: rungs for mode in MODES for c, m, rungs in found if (c, m) == (case, mode)} for case in CASES}
    results = {case: modes for case, modes in results.items() if modes}
    if not results:
        return
    table = Table("case", *MODES, title="architecture x mode x rung")
    for case, modes in results.items():
        cells = (modes.get(mode, {}) for mode in MODES)
        table.add_row(case, *(" ".join(r if v == "passed" else r.upper() + "!" for r, v in c.items()) for c in cells))
    console = Console(file=io.StringIO(), width=150)
    console.print(table)
    terminalreporter.write(console.file.getvalue())  # type: ignore[attr-defined]
    if os.environ.get("UPDATE_ZOO"):
        KNOWN.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
