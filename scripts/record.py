"""Runs a command in a terminal of its own and draws what stood on its screen, as SVG: the pictures of the README.

    python scripts/record.py [--columns 100] [--last 40] [--at 20:build.svg] demo.svg -- hf2bmodel demo

Nothing is added or left out but by --last, which keeps the last lines; --at draws the screen as it stood so many
seconds after the start. It knows the sequences that rich and pip write, not all that a terminal can do.
"""

from __future__ import annotations

import argparse
import codecs
import fcntl
import os
import pty
import re
import select
import shlex
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

_TOKEN = re.compile(
    r"\x1b\[(?P<parameters>[0-?]*)[ -/]*(?P<final>[@-~])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[^\[\]]|(?P<char>.)",
    re.DOTALL,
)
# Without the fonts that rich's format fetches: a picture in a page must not, and any fixed-width font serves.
_FORMAT = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
_UNFINISHED = re.compile(r"\x1b(\[[0-?]*[ -/]*|\][^\x07\x1b]*)?$")


class Screen:
    """Rows of cells, each a character and the SGR sequences in force where it was written. It never scrolls."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.rows: list[list[tuple[str, str]]] = [[]]
        self.row = self.column = 0
        self._style, self._rest = "", ""

    def feed(self, text: str) -> None:
        text = self._rest + text
        unfinished = _UNFINISHED.search(text)
        self._rest = unfinished.group() if unfinished else ""
        for token in _TOKEN.finditer(text.removesuffix(self._rest)):
            if token["char"]:
                self._put(token["char"])
            elif token["final"]:
                self._control(token["final"], token["parameters"], token.group())

    def text(self, last: int) -> Text:
        """The last rows that hold anything."""
        runs = (
            [(s, [char for _, char in cells]) for s, cells in groupby(row, lambda cell: cell[0])] for row in self.rows
        )
        lines = ["".join(f"\x1b[0m{style}{''.join(chars)}" for style, chars in row) for row in runs]
        while lines and not Text.from_ansi(lines[-1]).plain.strip():
            lines.pop()
        return Text("\n").join(Text.from_ansi(line) for line in lines[-last:])

    def _put(self, char: str) -> None:
        if char == "\r":
            self.column = 0
        elif char == "\n":
            self._move(self.row + 1)
        elif char == "\b":
            self.column = max(0, self.column - 1)
        elif char.isprintable():
            width = cell_len(char)
            if self.column + width > self.columns:
                self._move(self.row + 1)
                self.column = 0
            cells = self.rows[self.row]
            cells += [("", " ")] * (self.column + width - len(cells))
            cells[self.column : self.column + width] = [(self._style, char), *[(self._style, "")] * (width - 1)]
            self.column += width

    def _control(self, final: str, parameters: str, sequence: str) -> None:
        count = int(parameters) if parameters.isdigit() else 0
        if final == "m":
            self._style = "" if parameters in ("", "0") else self._style + sequence
        elif final in "AB":
            self._move(self.row + (max(count, 1) if final == "B" else -max(count, 1)))
        elif final == "C":
            self.column += max(count, 1)
        elif final == "G":
            self.column = max(count, 1) - 1
        elif final == "K":
            cells = self.rows[self.row]
            self.rows[self.row] = [] if count == 2 else cells[: self.column] if count == 0 else cells
        elif final == "J" and count == 0:
            self.rows[self.row :] = [self.rows[self.row][: self.column]]

    def _move(self, row: int) -> None:
        self.row = max(0, row)
        while len(self.rows) <= self.row:
            self.rows.append([])


def watch(command: list[str], screen: Screen, on_time: Callable[[float], None]) -> int:
    """Run `command` on a terminal whose output goes to ours and to `screen`; its exit code."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, screen.columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    start = time.monotonic()
    while True:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                data = os.read(ours, 1 << 16)
            except OSError:  # how Linux says that the other side is closed
                data = b""
            if not data:
                return process.wait()
            os.write(1, data)
            screen.feed(decoder.decode(data))
        on_time(time.monotonic() - start)


def draw(screen: Screen, command: list[str], last: int, path: Path) -> None:
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(
            record=True, width=screen.columns, file=nowhere, force_terminal=True, color_system="truecolor"
        )
        console.print(screen.text(last), no_wrap=True)
        console.print()  # the picture's frame cuts what hangs below the last line
        console.save_svg(str(path), title=f"$ {shlex.join(command)}", code_format=_FORMAT)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--last", type=int, default=60, help="lines to keep")
    parser.add_argument("--at", action="append", default=[], metavar="SECONDS:PICTURE")
    parser.add_argument("command", nargs="+", help="after --")
    args = parser.parse_args()
    screen = Screen(args.columns)
    waiting = sorted((float(at.partition(":")[0]), Path(at.partition(":")[2])) for at in args.at)

    def on_time(seconds: float) -> None:
        while waiting and waiting[0][0] <= seconds:
            draw(screen, args.command, args.last, waiting.pop(0)[1])

    code = watch(args.command, screen, on_time)
    draw(screen, args.command, args.last, args.picture)
    return code


if __name__ == "__main__":
    sys.exit(main())
