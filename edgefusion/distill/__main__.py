"""`python -m edgefusion.distill`: the same as `edgefusion distill`."""

from __future__ import annotations

from edgefusion.cli import run
from edgefusion.distill.command import app

if __name__ == "__main__":
    run(app)
