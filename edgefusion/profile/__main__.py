"""`python -m edgefusion.profile` is `edgefusion profile`."""

from edgefusion.cli import run
from edgefusion.profile.command import main

if __name__ == "__main__":
    run(main)
