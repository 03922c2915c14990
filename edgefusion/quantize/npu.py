"""w8a16 as Qualcomm's NPU takes it: an ONNX file of QuantizeLinear and DequantizeLinear, weights uint8 per tensor,
activations uint16, by ONNX Runtime's quantiser.

Weights are per tensor and unsigned because the NPU's LayerNormalization refuses int8 per channel. The file runs on a
CPU too (slowly); that it is right there does not prove it right on the NPU, whose compiler fuses on its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgefusion.quantize.calibration import Arrays
from edgefusion.quantize.engines import quiet
from edgefusion.quantize.layers import kept_names
from edgefusion.spec.bundle import Quantization
from edgefusion.spec.errors import UserError
from edgefusion.spec.recipe import KeptHigh


class Reader:
    """Calibration rows, as ONNX Runtime asks for them: one at a time, None at the end."""

    def __init__(self, inputs: Sequence[Arrays]) -> None:
        self._inputs = list(inputs)
        self.rewind()

    def rewind(self) -> None:
        """From the first row again."""
        self._rest = iter(self._inputs)

    def get_next(self) -> Arrays | None:
        """The next row."""
        return next(self._rest, None)


def quantised(
    source: Path, target: Path, inputs: Sequence[Arrays], prompts: int, keep_high: tuple[KeptHigh, ...] = ()
) -> Quantization:
    """Write the float ONNX file `source` as `target`, weights uint8 and activations uint16.

    Args:
        inputs: of the part's calls while calibrating; `prompts`: the prompts they come from.
        keep_high: modules that stay in float (the NPU runs them in float16, or not at all: see its compiler's log).

    Raises:
        UserError: ONNX Runtime is not installed, nothing to calibrate on, or a layer to be kept is not there.
    """
    try:
        from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize
        from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config, qnn_preprocess_model
    except ImportError as error:
        raise UserError(
            f"onnxruntime is not installed ({error}).", remedy="Run: pip install 'edgefusion[export]'", exit_code=4
        ) from error
    import onnx

    if not inputs:
        raise UserError("there is nothing to calibrate on.", where=str(source), remedy="Give the part's inputs.")
    CalibrationDataReader.register(Reader)
    with tempfile.TemporaryDirectory() as folder, quiet():
        prepared = Path(folder) / "prepared.onnx"
        ready = prepared if qnn_preprocess_model(source, prepared) else source
        names = [node.name for node in onnx.load(ready, load_external_data=False).graph.node]
        kept = kept_names(names, keep_high, "keep_high")
        config = get_qnn_qdq_config(
            ready, Reader(inputs), activation_type=QuantType.QUInt16, weight_type=QuantType.QUInt8
        )
        config.nodes_to_exclude = [*config.nodes_to_exclude, *kept]
        quantize(ready, target, config)
    return Quantization(
        engine="onnxruntime",
        method="QNN QDQ; weights uint8 per tensor; activations uint16 per tensor",
        prompts=prompts,
        samples=len(inputs),
        layers=_layers(target),
        kept_high=keep_high,
    )


def _layers(path: Path) -> int:
    import onnx

    from edgefusion.quantize.portable import eight_bit

    return eight_bit(onnx.load(path))
