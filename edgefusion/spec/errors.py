"""The one exception a user may see: what went wrong, where, and what to do about it."""

from __future__ import annotations


class UserError(Exception):
    """An error that a person can mend. The command line prints it as one paragraph and exits with `exit_code`.

    Args:
        what: what is wrong, in one sentence.
        where: the file, key or part it concerns.
        remedy: what to do now, in one sentence.
        exit_code: process exit status, never 0 (2: wrong input, 3: a check failed, 4: something is missing here).
    """

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None, exit_code: int = 2) -> None:
        self.what, self.where, self.remedy, self.exit_code = what, where, remedy, exit_code
        super().__init__(str(self))

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.what}" + (f" {self.remedy}" if self.remedy else "")


def first_line(error: BaseException) -> str:
    """The first line of what a library's exception says, without its full stop; its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
