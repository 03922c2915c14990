"""A signal with a handler (Ctrl-C, a child's end) after graphs came and went: OpenVINO moves the signal stack."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import faulthandler, gc, signal, sys
from pathlib import Path
from edgefusion.backends import openvino
from edgefusion.spec.opened import open_bundle

faulthandler.enable()  # gives the thread an alternate signal stack, as pytest and many servers do
caught = []
signal.signal(signal.SIGUSR1, lambda *_: caught.append(1))
bundle = open_bundle(Path(sys.argv[1]))
graphs = [openvino.load(bundle.path(part.file), part, threads=1) for part in bundle.manifest.parts.values()]
while graphs:
    graphs.pop(0)  # first in, first out
    gc.collect()
signal.raise_signal(signal.SIGUSR1)
assert caught == [1]
print("alive")
"""


def test_a_signal_is_handled_after_graphs_are_dropped(tiny: Path) -> None:
    """Dropped in another order than made, Cores of their own left the thread a stack that was gone: it died here."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tiny)], capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["alive"]), done.stderr[-800:]
