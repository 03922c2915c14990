"""`python -m edgefusion.boards` is `edgefusion boards`."""

from __future__ import annotations

from edgefusion.boards.kept_command import app
from edgefusion.cli import run

if __name__ == "__main__":
    run(app)
