"""`python -m edgefusion.zoo`: the same as `edgefusion zoo`."""

from __future__ import annotations

from edgefusion.cli import run
from edgefusion.zoo.command import main

if __name__ == "__main__":
    run(main)
