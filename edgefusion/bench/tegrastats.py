"""A line of NVIDIA's tegrastats: memory, clocks, temperatures and power of a Jetson.

RAM 4321/62801MB … CPU [0%@729,off] EMC_FREQ 0%@2133 GR3D_FREQ 0%@[0,0] CPU@44.562C CV0@-256C VDD_GPU_SOC 2340mW/2340mW
Older ones write rails without mW (VDD_IN 3140/3208), are slower to say a clock (GR3D_FREQ 0%), and write the GPU's as
33%@114. Of a pair "now/average" the first counts; -256C is a zone that is switched off.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

PROGRAM = "tegrastats"
RAM = re.compile(r"\bRAM (\d+)/(\d+)MB")
CPU = re.compile(r"\bCPU \[([^\]]*)\]")
CORE = re.compile(r"(\d+)%@(\d+)")
UNIT = re.compile(r"\b(GR3D|EMC|VIC)_FREQ (?:(\d+)%)?(?:@\[?(\d+))?")
ZONE = re.compile(r"\b([A-Za-z]\w*)@(-?[\d.]+)C\b")
RAIL = re.compile(r"\b((?:VDD|VIN|POM|CPU_GPU|SYS|VDDQ)\w*) (\d+)(?:mW)?/\d+(?:mW)?")
OFF_C = -256.0
NAMES = {"GR3D": "gpu", "EMC": "memory", "VIC": "vic"}


def parse(line: str) -> dict[str, float]:
    """What a line says, by name and unit; {} of what is no line of tegrastats."""
    return dict([*_memory(line), *_cores(line), *_units(line), *_zones(line), *_rails(line)])


class Tegrastats:
    """tegrastats running beside the benchmark; called, it gives the last line's values. A context manager.

    Args:
        interval_s: between two lines.
    """

    def __init__(self, interval_s: float, program: str = PROGRAM) -> None:
        words = [program, "--interval", str(round(interval_s * 1000))]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def __call__(self) -> dict[str, float]:
        assert self._process.stdout is not None
        return parse(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


def present() -> bool:
    """Whether this machine has it."""
    return shutil.which(PROGRAM) is not None


def _memory(line: str) -> Iterator[tuple[str, float]]:
    if found := RAM.search(line):
        yield "memory_mib.used", float(found[1])


def _cores(line: str) -> Iterator[tuple[str, float]]:
    found = CPU.search(line)
    for index, core in enumerate(found[1].split(",") if found else ()):
        if told := CORE.fullmatch(core.strip()):  # "off" otherwise
            yield f"load_percent.cpu{index}", float(told[1])
            yield f"clock_mhz.cpu{index}", float(told[2])


def _units(line: str) -> Iterator[tuple[str, float]]:
    for name, load, clock in UNIT.findall(line):
        if load:
            yield f"load_percent.{NAMES[name]}", float(load)
        if clock:
            yield f"clock_mhz.{NAMES[name]}", float(clock)


def _zones(line: str) -> Iterator[tuple[str, float]]:
    for name, degrees in ZONE.findall(line):
        if float(degrees) != OFF_C:
            yield f"temperature_c.{name}", float(degrees)


def _rails(line: str) -> Iterator[tuple[str, Any]]:
    for name, milliwatts in RAIL.findall(line):
        yield f"power_w.{name}", float(milliwatts) / 1000
