"""`python -m edgefusion` is `edgefusion`."""

from edgefusion.cli import main

main()
