"""A verb as the command line runs it, in this process."""

from __future__ import annotations

from typing import Any

import pytest

from edgefusion.cli import run


def status(verb: Any, *words: object) -> int:
    """The exit status of a verb (a function with typer's annotations, or a `typer.Typer`) that is given these words."""
    with pytest.raises(SystemExit) as end:
        run(verb, [str(word) for word in words])
    return int(end.value.code or 0)
