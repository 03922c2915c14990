"""Whether this machine has the memory to lower a part, known before it is begun."""

from __future__ import annotations

from pathlib import Path

from edgefusion.backends._available import available_mib
from edgefusion.spec.errors import UserError

MIB = 2**20
NEED_MIB, NEED_FACTOR = 1000, 4  # torch and ExecuTorch imported, and copies of the part's float32 weights


def require_memory(source: Path) -> None:
    """A UserError (exit code 4) where lowering would take more memory than there is: else the system ends the process.

    Args:
        source: the part's float32 ONNX file, whose size (with its data beside it) tells that of the weights.
    """
    weights_bytes = sum(path.stat().st_size for path in source.parent.glob(f"{source.name}*"))
    need, available = NEED_MIB + NEED_FACTOR * weights_bytes // MIB, available_mib()
    if available is not None and available < need:
        raise UserError(
            f"lowering this part takes about {need} MiB of memory; {available} MiB are available.",
            where=str(source.parent.name),
            remedy="Close other programs and run the same command, which goes on from here; or take a machine with "
            "more memory.",
            exit_code=4,
        )
