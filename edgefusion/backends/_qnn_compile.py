"""Compile one graph for the NPU, in a process of its own: `python -m edgefusion.backends._qnn_compile JOB`.

The compiler writes its reasons to the standard error, may end the process, and keeps its memory; so its caller is
another process. JOB is JSON: source, target, soc. One line of JSON comes back: seconds, peak_mib, sdk.
"""

from __future__ import annotations

import json
import resource
import sys
import time

from edgefusion.backends._qnn_session import Soc, device_of, sdk, sdk_version, session_options


def main(job: dict[str, object]) -> None:
    """Compile `source` to `target` (an ONNX file with a context, its binary beside it)."""
    ort, plugin = sdk()
    began = time.monotonic()
    entries = {
        "ep.context_enable": "1",
        "ep.context_file_path": str(job["target"]),
        "ep.context_embed_mode": "0",
    }
    soc = Soc(**job["soc"])  # type: ignore[arg-type]
    more = {str(key): str(value) for key, value in dict(job["options"]).items()}  # type: ignore[call-overload]
    options = session_options(ort, plugin, device_of(ort, "cpu"), soc, more, threads=1, entries=entries)
    ort.InferenceSession(str(job["source"]), sess_options=options)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    facts = {"seconds": round(time.monotonic() - began, 2), "peak_mib": round(peak_mib, 1), "sdk": sdk_version(plugin)}
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
