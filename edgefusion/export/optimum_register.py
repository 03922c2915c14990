"""Installed as optimum/commands/register/edgefusion.py (pyproject.toml): there optimum looks for commands."""

from optimum.commands.export.base import ExportCommand

from edgefusion.export.optimum_command import EdgefusionExportCommand

REGISTER_COMMANDS = [(EdgefusionExportCommand, ExportCommand)]
