"""`python -m edgefusion.quantize`: the same as `edgefusion quantize`."""

from __future__ import annotations

from edgefusion.cli import run
from edgefusion.quantize.command import app

if __name__ == "__main__":
    run(app)
