"""`python -m edgefusion.report`: the same as `edgefusion report`."""

from __future__ import annotations

from edgefusion.cli import run
from edgefusion.report.command import main

if __name__ == "__main__":
    run(main)
