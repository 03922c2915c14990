"""What Linux tells in files of clocks, temperatures, power and memory. Everything that is not there is left out.

/sys/class/thermal/thermal_zone*/{type,temp}               thousandths of a degree
/sys/devices/system/cpu/cpu*/cpufreq/scaling_cur_freq      kHz; where there is none, "cpu MHz" of /proc/cpuinfo
/sys/class/devfreq/*/cur_freq                              Hz: GPU, memory
/sys/class/powercap/*/{name,energy_uj,max_energy_range_uj} microjoules since the start, wrapping (RAPL; root reads it)
/sys/class/hwmon/hwmon*/{name,power*_input,power*_label}   microwatts
/proc/meminfo, /proc/stat                                  memory in use, busy and stolen processor time
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MHZ = re.compile(r"^cpu MHz\s*: ([\d.]+)$", re.MULTILINE)
MEMORY = re.compile(r"^(MemTotal|MemAvailable): +(\d+) kB$", re.MULTILINE)
STOLEN, IDLE = 7, (3, 4)  # columns of a line of /proc/stat: steal; idle, iowait


class Sysfs:
    """Called, it returns what the files say now, by name and unit. Power and load are of the time since the last call.

    Args:
        root: where /sys and /proc are.
        clock: seconds, never backwards.
    """

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self._root, self._clock = root, clock
        self._energy: dict[str, tuple[float, float]] = {}
        self._ticks: list[int] = []

    def __call__(self) -> dict[str, float]:
        return dict([*self._temperatures(), *self._clocks(), *self._power(), *self._memory(), *self._load()])

    def _temperatures(self) -> Iterator[tuple[str, float]]:
        for zone in sorted(self._root.glob("sys/class/thermal/thermal_zone*")):
            thousandths = _number(zone / "temp")
            if thousandths is not None:
                yield f"temperature_c.{_text(zone / 'type') or zone.name}", thousandths / 1000

    def _clocks(self) -> Iterator[tuple[str, float]]:
        told = False
        for folder in sorted(self._root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq")):
            if (khz := _number(folder / "scaling_cur_freq")) is not None:
                told = True
                yield f"clock_mhz.{folder.parent.name}", khz / 1000
        if not told:
            for index, mhz in enumerate(MHZ.findall(_text(self._root / "proc/cpuinfo"))):
                yield f"clock_mhz.cpu{index}", float(mhz)
        for folder in sorted(self._root.glob("sys/class/devfreq/*")):
            if hz := _number(folder / "cur_freq"):
                yield f"clock_mhz.{folder.name}", hz / 1e6

    def _power(self) -> Iterator[tuple[str, float]]:
        for zone in sorted(self._root.glob("sys/class/powercap/*:*")):
            energy, now = _number(zone / "energy_uj"), self._clock()
            if energy is None:
                continue
            before, self._energy[zone.name] = self._energy.get(zone.name), (energy, now)
            if before and now > before[1]:
                spent = energy - before[0]
                if spent < 0:  # the counter has begun again
                    spent += _number(zone / "max_energy_range_uj") or 0
                yield f"power_w.{_text(zone / 'name') or zone.name}", spent / 1e6 / (now - before[1])
        for file in sorted(self._root.glob("sys/class/hwmon/hwmon*/power*_input")):
            if (microwatts := _number(file)) is not None:
                label = _text(file.with_name(file.name.replace("_input", "_label"))) or _text(file.parent / "name")
                yield f"power_w.{label or file.parent.name}", microwatts / 1e6

    def _memory(self) -> Iterator[tuple[str, float]]:
        found = dict(MEMORY.findall(_text(self._root / "proc/meminfo")))
        if len(found) == 2:
            yield "memory_mib.used", (int(found["MemTotal"]) - int(found["MemAvailable"])) / 1024

    def _load(self) -> Iterator[tuple[str, float]]:
        line = _text(self._root / "proc/stat").partition("\n")[0].split()
        now = [int(word) for word in line[1:] if word.isdigit()]
        before, self._ticks = self._ticks, now
        spent = [late - early for late, early in zip(now, before, strict=False)]
        total = sum(spent[: STOLEN + 1])  # what follows, of guests, is counted in user time
        if len(spent) > STOLEN and total > 0:
            yield "load_percent.cpu", 100 * (1 - sum(spent[column] for column in IDLE) / total)
            yield "steal_percent.cpu", 100 * spent[STOLEN] / total


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # not there, or for root alone
        return ""


def _number(path: Path) -> float | None:
    text = _text(path)
    return float(text) if re.fullmatch(r"-?\d+", text) else None
