"""One graph that OpenVINO compiled, and its request."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

MICROSECOND = timedelta(microseconds=1)


class Engine:
    """One compiled graph and one request. Call it with {input name: array}; it returns {output name: array}.

    Inputs are written into the request's own tensors, outputs are copied out of them. Not for two threads at once.
    """

    def __init__(self, compiled: Any, weights: Any = None) -> None:
        self.compiled = compiled
        self._weights = weights  # memory the compiled graph may still read from
        self._request = compiled.create_infer_request()
        self._inputs = {port.any_name: self._request.get_tensor(port) for port in compiled.inputs}
        self._outputs = {port.any_name: self._request.get_tensor(port) for port in compiled.outputs}

    def __call__(self, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.put(feeds)
        self.run()
        return self.take()

    def put(self, feeds: dict[str, NDArray[Any]]) -> None:
        """Write the inputs into the request's tensors."""
        for name, tensor in self._inputs.items():
            np.copyto(tensor.data, feeds[name], casting="no")

    def run(self) -> None:
        """Run what is in the request."""
        self._request.infer()

    def take(self) -> dict[str, NDArray[Any]]:
        """Copies of the outputs."""
        return {name: tensor.data.copy() for name, tensor in self._outputs.items()}

    def counters_us(self) -> dict[str, int]:
        """Layer → microseconds, as the device counts; {} where it was not loaded with `counters`."""
        rows = self._request.profiling_info
        return {row.node_name: row.real_time // MICROSECOND for row in rows if "EXECUTED" in str(row.status)}
