"""`optimum-cli export edgefusion …`: every word after it is `edgefusion export`'s; optimum reads none.

Same options, same help, same errors, same exit codes. `optimum_register.py` beside this file is what optimum finds.
"""

from __future__ import annotations

import argparse

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo


class EdgefusionExportCommand(BaseOptimumCLICommand):
    """The sub-command. Registering it imports neither torch nor the export."""

    COMMAND = CommandInfo(
        name="edgefusion",
        help="A bundle for a small machine: Stable Diffusion students, traced, measured against torch, static shapes.",
    )

    @staticmethod
    def parse_args(parser: argparse.ArgumentParser) -> None:
        """Take every word as it is; without a prefix no word is an option of argparse's, not even --help."""
        parser.prefix_chars = "\0"
        parser.add_argument("words", nargs=argparse.REMAINDER)

    def run(self) -> None:
        """Do what `edgefusion export` does with the words, and exit as it does."""
        from edgefusion.cli import run
        from edgefusion.export.command import main

        run(main, self.args.words, "optimum-cli export edgefusion")
