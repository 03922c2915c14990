"""`python -m edgefusion.predict`: the same as `edgefusion predict`."""

from __future__ import annotations

from edgefusion.cli import run
from edgefusion.predict.command import main

if __name__ == "__main__":
    run(main)
