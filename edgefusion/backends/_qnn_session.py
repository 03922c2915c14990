"""ONNX Runtime with Qualcomm's plugin: found, registered once, and given the NPU of one chip or its simulator."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edgefusion.spec.errors import UserError

PROVIDER = "QNNExecutionProvider"
LEAST = (2, 7)
REMEDY = "Install it: pip install 'edgefusion[qnn]'."
OPTIMISE = "3"
"""htp_graph_finalization_optimization_mode. With 1 the compiler of SDK 2.51 turns U-Nets into noise that 2 and 3 draw
right; which one is right is never taken on trust, see export/qnn."""
REFUSED = re.compile(r"Unsupported nodes in QNN EP: (\{.*\})")
_ONE_AT_A_TIME = threading.Lock()
NODE = re.compile(r"\{ name: (.*?), type: (\w+) \}")


@dataclass(frozen=True)
class Soc:
    """A chip: its name (SM8650), Qualcomm's number of it, its NPU's architecture (75 of v75) and local memory, MiB."""

    name: str
    model: str
    arch: str
    vtcm_mib: int

    def options(self) -> dict[str, str]:
        """For the provider."""
        return {
            "soc_model": self.model,
            "htp_arch": self.arch,
            "vtcm_mb": str(self.vtcm_mib),
            "htp_graph_finalization_optimization_mode": OPTIMISE,
        }


def sdk() -> tuple[Any, Any]:
    """The packages onnxruntime and onnxruntime_qnn, the plugin registered.

    Raises:
        UserError: one is not installed, or too old (exit code 4).
    """
    try:
        import onnxruntime as ort
        import onnxruntime_qnn as plugin
    except ImportError as error:
        raise UserError(f"onnxruntime-qnn is not installed ({error}).", remedy=REMEDY, exit_code=4) from error
    version = str(getattr(plugin, "__version__", None) or plugin.build_and_package_info.__version__)
    if tuple(int(word) for word in version.split(".")[:2]) < LEAST:
        raise UserError(
            f"onnxruntime-qnn {version} is too old; {'.'.join(map(str, LEAST))} is the first that is a plugin.",
            remedy=f"Update it: pip install --upgrade 'onnxruntime-qnn>={'.'.join(map(str, LEAST))}'.",
            exit_code=4,
        )
    if not any(device.ep_name == PROVIDER for device in ort.get_ep_devices()):
        _register(ort, plugin)
    return ort, plugin


def sdk_version(plugin: Any) -> str:
    """Version of Qualcomm's SDK inside the plugin, e.g. 2.51.0."""
    return str(plugin.build_and_package_info.qnn_version)


def device_of(ort: Any, provider: str) -> Any:
    """The NPU, or where there is none the processor, on which the simulator runs.

    Raises:
        UserError: `npu` is asked for and there is none, or the name is neither.
    """
    wanted = provider.lower().removesuffix("executionprovider")
    if wanted not in ("npu", "cpu", "qnn", "simulator"):
        raise UserError(
            f"qnn has no provider {provider!r}.",
            where="--provider",
            remedy="Leave it out: it is the NPU where there is one, elsewhere its simulator. Or say npu, or simulator.",
        )
    here = {device.device.type.name: device for device in ort.get_ep_devices() if device.ep_name == PROVIDER}
    if "NPU" in here and wanted != "simulator":
        return here["NPU"]
    if wanted == "npu" or "CPU" not in here:
        raise UserError(
            "there is no Hexagon NPU here.",
            where="--provider",
            remedy="Run it on the phone, or leave --provider out: then the simulator runs, many times slower.",
            exit_code=4,
        )
    return here["CPU"]


def session_options(
    ort: Any,
    plugin: Any,
    device: Any,
    soc: Soc,
    more: dict[str, str],
    *,
    threads: int | None,
    entries: dict[str, str] | None = None,
) -> Any:
    """Options of a session that runs on the NPU wholly or fails; `more` are the provider's, over the chip's own."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    for key, value in {"session.disable_cpu_ep_fallback": "1", **(entries or {})}.items():
        options.add_session_config_entry(key, value)
    options.add_provider_for_devices([device], {"backend_path": plugin.get_qnn_htp_path(), **soc.options(), **more})
    return options


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """What the SDK's libraries print to the standard output while they are loaded goes nowhere: others read that."""
    with _ONE_AT_A_TIME:
        sys.stdout.flush()
        kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 1)
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)
            os.close(nowhere)


def refused_nodes(log: str) -> list[tuple[str, str]]:
    """(name, operator) of the nodes that the provider did not take, from what it printed last."""
    lines = REFUSED.findall(log)
    return [(name, kind) for name, kind in NODE.findall(lines[-1])] if lines else []


def _register(ort: Any, plugin: Any) -> None:
    try:
        ort.register_execution_provider_library(PROVIDER, plugin.get_library_path())
    except Exception as error:  # onnxruntime raises classes of its own, with the reason in the text
        raise UserError(
            f"onnxruntime {ort.__version__} does not take the plugin: {str(error).splitlines()[0].rstrip('.')}.",
            remedy="Install the pair that belongs together: pip install 'edgefusion[qnn]' -c constraints.txt.",
            exit_code=4,
        ) from error
