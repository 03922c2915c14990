"""`python -m edgefusion.compress`: the same as `edgefusion compress`."""

from __future__ import annotations

from edgefusion.cli import run
from edgefusion.compress.command import main

if __name__ == "__main__":
    run(main)
