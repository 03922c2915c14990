"""A checkpoint with the blocks of bk-tiny and few channels, for --smoke."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from narrow import narrow

from edgefusion.models.random import Random, write_random

write_random(Path(sys.argv[1]), Random(student=sys.argv[2], tiny_decoder=True), adapt=narrow)
