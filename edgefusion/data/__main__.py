"""`python -m edgefusion.data`: the same as `edgefusion data`."""

from __future__ import annotations

from edgefusion.cli import run
from edgefusion.data.command import app

if __name__ == "__main__":
    run(app)
