"""The quantisers, imported when they are needed, and quiet."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from edgefusion.spec.errors import UserError

REMEDY = "Run: pip install 'edgefusion[export,openvino]'"


def nncf_sdk() -> Any:
    """The nncf package.

    Raises:
        UserError: it is not installed (exit code 4).
    """
    with quiet():
        try:
            import nncf
        except ImportError as error:
            raise UserError(f"nncf is not installed ({error}).", remedy=REMEDY, exit_code=4) from error
    return nncf


def require(precisions: set[str], engine_format: str) -> None:
    """A UserError before anything is begun, where a quantiser that will be needed is not installed (exit code 4)."""
    if engine_format == "executorch":
        from edgefusion.backends import executorch

        executorch.sdk()
        return
    if engine_format == "qnn":
        from edgefusion.backends import _qnn_session

        _qnn_session.sdk()
        return
    if precisions & {"int8", "w8a16", "mixed"}:
        nncf_sdk()
    if engine_format == "openvino":
        from edgefusion.backends import openvino

        openvino.sdk()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Progress bars, tables and advice of the quantisers are not for the user of an export."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
