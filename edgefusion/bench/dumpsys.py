"""What Android's dumpsys tells: temperatures of thermalservice, battery of battery.

Of thermalservice the section "Current temperatures from HAL" counts, and only what is a temperature: types 6, 7 and 8
(android.os.Temperature) are a voltage, a current and a percentage of the battery. What it calls "Cached" is old.
The battery says tenths of a degree, mV, and on some phones mA or µA as "current now".
"""

from __future__ import annotations

import re
import shutil
import subprocess

CURRENT = "Current temperatures from HAL:"
ROW = re.compile(r"Temperature\{mValue=(-?[\d.]+), mType=(-?\d+), mName=([^,}]+), mStatus=\d+\}")
STATUS = re.compile(r"^\s*Thermal Status: (\d+)", re.MULTILINE)
NO_TEMPERATURE = {6, 7, 8, -1}
LINE = re.compile(r"^\s*([A-Za-z ]+): *(-?\d+)\s*$", re.MULTILINE)


def parse_thermal(text: str) -> dict[str, float]:
    """Of `dumpsys thermalservice`: temperature_c.NAME, and throttling.status, 0 (none) … 6 (shutdown)."""
    found = {}
    if status := STATUS.search(text):
        found["throttling.status"] = float(status[1])
    for line in text.partition(CURRENT)[2].strip().splitlines():
        row = ROW.search(line)
        if not row:
            break
        if int(row[2]) not in NO_TEMPERATURE:
            found[f"temperature_c.{row[3]}"] = float(row[1])
    return found


def parse_battery(text: str) -> dict[str, float]:
    """Of `dumpsys battery`: temperature_c.battery, voltage_v.battery, level_percent.battery."""
    told = {name.strip(): int(value) for name, value in LINE.findall(text)}
    found = {}
    if "temperature" in told:
        found["temperature_c.battery"] = told["temperature"] / 10
    if told.get("voltage", 0) > 1000:  # mV; a box without a battery says 0, or some volts
        found["voltage_v.battery"] = told["voltage"] / 1000
    if told.get("scale"):
        found["level_percent.battery"] = 100 * told.get("level", 0) / told["scale"]
    return found


def present() -> bool:
    """Whether this is Android and lets us ask."""
    return shutil.which("dumpsys") is not None


def read() -> dict[str, float]:
    """Both, now; {} where this user may not ask."""
    return {**parse_thermal(_dump("thermalservice")), **parse_battery(_dump("battery"))}


def _dump(service: str) -> str:
    try:
        done = subprocess.run(["dumpsys", service], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
