"""The one exception a user may see: what is wrong, where, and what to do about it."""

from __future__ import annotations


class UserError(Exception):
    """A mistake the user can mend. The command line prints it as one line and exits with code 2.

    `what`: the fault, naming the offending value. `where`: file, file:line or option (may be empty).
    `remedy`: what to type or change (may be empty only where `what` already says it).
    """

    def __init__(self, what: str, where: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return " ".join((f"{head}; {self.remedy}" if self.remedy else head).split("\n"))


def one_of(values: object) -> str:
    """`a, b or c`: the allowed values as they stand in a remedy."""
    words = [str(v) for v in values]  # type: ignore[attr-defined]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
