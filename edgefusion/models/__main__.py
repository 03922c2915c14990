"""`python -m edgefusion.models`: the same as `edgefusion models`."""

from __future__ import annotations

from edgefusion.cli import run
from edgefusion.models.command import app

if __name__ == "__main__":
    run(app)
