"""`python -m edgefusion.runtime` is `edgefusion runtime`."""

from edgefusion.cli import run
from edgefusion.runtime.command import main

if __name__ == "__main__":
    run(main)
