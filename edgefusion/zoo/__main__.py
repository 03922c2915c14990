"""`python -m edgefusion.zoo`."""

from edgefusion.cli import run
from edgefusion.zoo.command import main

run(main)
