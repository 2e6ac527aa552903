"""The Makefile's helper: refuses a mistyped value or name at once, before anything is set up. Standard library only.

front.py check MODE=int4 DEV=1 ...     exit 2 where a value does not exist
front.py unknown TARGET NAME...        says that TARGET is none of NAMEs, and what was perhaps meant
"""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from contract.errors import UserError, one_of
from contract.modes import CHIPS, DEVICES, HEADS, MODES, TOOLCHAINS, VERIFY

ALLOWED = {
    "MODE": tuple(MODES),
    "CHIP": tuple(CHIPS),
    "DEV": tuple(map(str, DEVICES)),
    "HEAD": HEADS,
    "VERIFY": VERIFY,
    "TOOLCHAIN": TOOLCHAINS,
    "TRUST_REMOTE_CODE": ("0", "1"),
}
NUMBERS = ("SEQ", "GROUP", "JOBS")


def check(words: list[str]) -> None:
    """UserError for the first VARIABLE=value that cannot be; an empty value is one that was not given."""
    for word in words:
        name, _, value = word.partition("=")
        if value and value not in ALLOWED.get(name, (value,)):
            raise UserError(f'"{value}" is unknown', name, f"use {one_of(ALLOWED[name])}")
        if value and name in NUMBERS and not (value.isascii() and value.isdigit() and int(value)):
            raise UserError(f'"{value}" is no positive whole number', name, f"write one, as in {name}=4")


def unknown(name: str, names: list[str]) -> None:
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    remedy = f"did you mean {one_of(near)}?" if near else "`make help` lists them"
    raise UserError(f'"{name}" is neither a recipe nor a target', remedy=remedy)


def main(argv: list[str]) -> int:
    try:
        if argv[:1] == ["check"]:
            check(argv[1:])
        elif argv[:1] == ["unknown"] and len(argv) > 1:
            unknown(argv[1], argv[2:])
        else:
            print(__doc__, file=sys.stderr)
            return 2
    except UserError as error:
        print(f"make: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
