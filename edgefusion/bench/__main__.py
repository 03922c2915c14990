"""`python -m edgefusion.bench`: the same as `edgefusion bench`."""

from __future__ import annotations

from edgefusion.bench.command import main
from edgefusion.cli import run

if __name__ == "__main__":
    run(main)
