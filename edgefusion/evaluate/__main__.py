"""`python -m edgefusion.evaluate`: the same as `edgefusion evaluate`."""

from __future__ import annotations

from edgefusion.cli import run
from edgefusion.evaluate.command import app

if __name__ == "__main__":
    run(app)
