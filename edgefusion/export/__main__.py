"""`python -m edgefusion.export`: the same as `edgefusion export`."""

from __future__ import annotations

from edgefusion.cli import run
from edgefusion.export.command import main

if __name__ == "__main__":
    run(main)
