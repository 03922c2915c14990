"""`edgefusion bench`: a record of real processes, and the readers of what boards tell, on what boards told.

The recorded output is from public threads, named beside each.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import status

from edgefusion.bench import command, dumpsys, measure, tegrastats
from edgefusion.bench.measure import Plan, spread
from edgefusion.bench.memory import peak_mib
from edgefusion.bench.sysfs import Sysfs
from edgefusion.bench.table import table, verdict
from edgefusion.bench.watch import Watch
from edgefusion.runtime.pipeline import Pipeline
from edgefusion.spec.benchmark import Benchmark, percentile
from edgefusion.spec.errors import UserError
from edgefusion.spec.records import read_record

ROOT = Path(__file__).parent.parent
AGX_ORIN = (  # https://github.com/GDWR/jetson_exporter/issues/14
    "04-11-2025 10:36:27 RAM 4321/62801MB (lfb 1759x4MB) SWAP 19/31400MB (cached 0MB) CPU [0%@729,0%@729,0%@729,0%@729,"
    "0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729] EMC_FREQ 0%@2133 GR3D_FREQ 0%@[0,0] VIC_FREQ 729 APE 174 "
    "CV0@-256C CPU@44.562C Tboard@32C SOC2@40.093C Tdiode@33C SOC0@41.093C CV1@-256C GPU@-256C tj@44.343C SOC1@41.25C "
    "CV2@-256C VDD_GPU_SOC 2340mW/2340mW VDD_CPU_CV 390mW/390mW VIN_SYS_5V0 4025mW/4025mW NC 0mW/0mW "
    "VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
)
TX2 = (  # https://github.com/FindHao/tx-utils/issues/3
    "RAM 2020/7852MB (lfb 1164x4MB) CPU [9%@345,21%@345,25%@345,3%@345,1%@345,1%@345] EMC_FREQ 0% GR3D_FREQ 0% "
    "PLL@42.5C MCPU@42.5C PMIC@100C Tboard@40C GPU@41C BCPU@42.5C thermal@41.9C Tdiode@41.25C VDD_SYS_GPU 153/158 "
    "VDD_SYS_SOC 536/547 VDD_4V0_WIFI 633/527 VDD_IN 3140/3208 VDD_SYS_CPU 536/590 VDD_SYS_DDR 557/601"
)
PHONE = """Thermal Status: 0
Cached temperatures:
\tTemperature{mValue=37.0, mType=0, mName=CPU1, mStatus=0}
HAL Ready: true
HAL connection:
\tThermalHAL AIDL 1  connected: yes
Current temperatures from HAL:
\tTemperature{mValue=3.878, mType=6, mName=vbat, mStatus=0}
\tTemperature{mValue=40.7, mType=9, mName=nsp6, mStatus=0}
\tTemperature{mValue=40.3, mType=9, mName=nsp5, mStatus=0}
\tTemperature{mValue=44.0, mType=0, mName=CPU1, mStatus=0}
Current cooling devices from HAL:
\tCoolingDevice{mValue=0, mType=2, mName=thermal-cpufreq-0}
"""
"""The rows from HAL: https://github.com/Pipetto-crypto/winlator/issues/100; the frame around them, and that cached ones
are old: https://github.com/bryanroscoe/shield_optimizer/issues/6."""
BATTERY = """Current Battery Service state:
  mBootCompleted: true
  AC powered: false
  USB powered: true
  Max charging current: 0
  status: 2
  level: 84
  scale: 100
  voltage: 4063
  temperature: 326
  technology: Li-ion
  current now: 321
  charge counter: 0
"""
"""https://gh0st.tistory.com/6, a Samsung phone, shortened."""
NO_BATTERY = "Current Battery Service state:\n  level: 90\n  scale: 100\n  voltage: 13\n  temperature: 26\n"
"""A box: https://ppmy.cn/news/1423084.html"""


@pytest.fixture(scope="module")
def record(tiny: Path) -> Benchmark:
    """Of the tiny bundle: a cold start, two warm ones, five pictures with a rest between."""
    return measure.measure(Plan(tiny, runs=5, seconds=0, warm_up=1, starts=2, cool_down_s=0.1, interval_s=0.1))


def test_a_benchmark_is_of_real_processes(record: Benchmark) -> None:
    start, steady = record.start, record.steady
    assert len(steady.pictures_ms) == 5 and all(elapsed > 0 for elapsed in steady.pictures_ms)
    assert len(start.raw_ms["process_ms"]) == 2
    assert start.process_ms == statistics.median(start.raw_ms["process_ms"])
    assert start.process_ms > start.load_ms + start.first_picture_ms, "Python itself takes time to start"
    assert start.compile_ms is not None and start.compile_ms > 0
    assert 20 < record.peak_mib < 2000
    assert Benchmark.model_validate_json(record.model_dump_json()) == record


def test_every_part_has_its_time_in_every_picture(record: Benchmark) -> None:
    """The text encoder too: its results are remembered, and a benchmark must not draw on that."""
    parts = record.steady.parts_ms
    assert set(parts) == {"text_encoder", "unet", "decoder"}
    assert all(len(times) == 5 and min(times) > 0 for times in parts.values())
    for index, picture_ms in enumerate(record.steady.pictures_ms):
        assert sum(times[index] for times in parts.values()) < picture_ms + 0.01


def test_the_cool_down_is_outside_the_pictures(record: Benchmark) -> None:
    assert record.steady.cool_down_ms == 100
    assert min(record.steady.pictures_ms) < 100


def test_the_board_was_read_meanwhile(record: Benchmark) -> None:
    assert len(record.readings) > 3
    times = [reading.at_ms for reading in record.readings]
    assert times == sorted(times) and times[-1] > 1000
    assert record.board_peak_mib is not None and record.board_peak_mib > record.peak_mib
    assert max(reading.values.get("load_percent.cpu", 0) for reading in record.readings) > 1


def test_a_clock_that_jumps_changes_no_time(tiny: Path, tmp_path: Path) -> None:
    """In every process of it the time of day goes back an hour whenever somebody looks."""
    jumps = (
        "import time\nreal, looks = time.time, []\ntime.time = lambda: looks.append(0) or real() - 3600 * len(looks)\n"
    )
    (tmp_path / "sitecustomize.py").write_text(jumps)
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    bench = ("bench", "--seconds", "0", "--warm-up", "1", "--starts", "1", "--interval", "0.1")
    for verb, *words in (bench, ("profile", "--runs", "2", "--threads", "1")):
        out, began = tmp_path / f"{verb}.json", time.monotonic()
        line = [sys.executable, "-m", "edgefusion", verb, str(tiny), *words, "--out", str(out)]
        subprocess.run(line, env=env, cwd=tmp_path, capture_output=True, check=True)
        elapsed_ms, record = 1000 * (time.monotonic() - began), read_record(out)
        if isinstance(record, Benchmark):
            start = record.start
            times = [start.load_ms, start.first_picture_ms, start.process_ms or 0, start.cold_process_ms or 0]
            times += [*record.steady.pictures_ms, *(reading.at_ms for reading in record.readings[1:])]
        else:
            times = [ms for call in record.calls for ms in (*call.walls_ms, *call.plain_walls_ms)]
        assert len(times) > 10 and all(0 < ms < elapsed_ms for ms in times)


def test_nothing_is_left_in_the_cache(record: Benchmark) -> None:
    from edgefusion.runtime.place import user_cache

    assert not list((user_cache() / "edgefusion").glob("bench-*"))


def test_the_command_writes_the_record_and_a_table(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], record: Benchmark
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "measure", lambda plan: record)
    assert status(command.main, tiny) == 0
    said = capsys.readouterr().out
    assert "next picture, p90" in said and "text_encoder, mean" in said
    written = tmp_path / "profiles" / "this-machine" / "tiny.onnxruntime.bench.json"
    assert Benchmark.model_validate_json(written.read_text("utf-8")) == record
    assert status(command.main, tiny, "--json", "--out", tmp_path / "b.json") == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "bench"


def test_steps_it_does_not_have_are_refused_before_a_process_starts(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure.subprocess, "run", lambda *words, **options: pytest.fail("a process was started"))
    assert status(command.main, tiny, "--steps", "99") == 2
    assert "99 steps are not in this bundle" in capsys.readouterr().err


def test_an_error_of_the_process_is_told_as_its_own(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(command.main, tiny, "--provider", "abacus", "--starts", "1") == 4
    assert "provider 'abacus' is not in this onnxruntime" in capsys.readouterr().err


def test_a_process_that_is_killed_is_told_with_a_remedy(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(measure.sys, "executable", str(program))
    with pytest.raises(UserError) as told:
        measure.measure(Plan(tiny, starts=1))
    assert "signal 9" in told.value.what and "--low-memory" in str(told.value.remedy) and told.value.exit_code == 4


def test_pictures_are_observed_and_prompts_forgotten(tiny: Path) -> None:
    seen: list[str] = []
    with Pipeline(tiny, observe=lambda part, elapsed_ms: seen.append(part)) as pipeline:
        pipeline.generate("a red apple", steps=2)
        pipeline.generate("a red apple", steps=2)
        pipeline.forget()
        pipeline.generate("a red apple", steps=1)
    picture = ["text_encoder", "unet", "unet", "decoder"]
    assert seen == [*picture, *picture[1:], "text_encoder", "unet", "decoder"]


def test_percentiles_and_noise() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2 and percentile([1.0], 0.9) == 1
    assert percentile([float(n) for n in range(11)], 0.9) == 9 and percentile([5, 1, 4, 2, 3], 0.9) == pytest.approx(
        4.6
    )
    assert spread([10.0] * 19 + [30.0]) == 0, "one in twenty is not a spread"
    assert spread([10.0, 10, 10, 12, 12]) == pytest.approx(0.2)


def test_a_noisy_record_says_so(record: Benchmark) -> None:
    noisy = record.model_copy(update={"noisy": True, "spread": 0.25})
    assert "noisy: p90 is 25.0% above p50" in verdict(noisy)
    assert table(noisy).row_count > 10


def test_a_line_of_an_agx_orin() -> None:
    told = tegrastats.parse(AGX_ORIN)
    assert told["memory_mib.used"] == 4321
    assert told["clock_mhz.cpu11"] == 729 and told["clock_mhz.memory"] == 2133 and told["clock_mhz.gpu"] == 0
    assert told["temperature_c.tj"] == 44.343 and told["temperature_c.CPU"] == 44.562
    assert "temperature_c.GPU" not in told, "-256C is a zone that is off"
    power = {name: value for name, value in told.items() if name.startswith("power_w.")}
    assert power == {
        "power_w.VDD_GPU_SOC": 2.34,
        "power_w.VDD_CPU_CV": 0.39,
        "power_w.VIN_SYS_5V0": 4.025,
        "power_w.VDDQ_VDD2_1V8AO": 0.301,
    }


def test_a_line_of_a_tx2() -> None:
    told = tegrastats.parse(TX2)
    assert told["power_w.VDD_IN"] == 3.14 and told["power_w.VDD_4V0_WIFI"] == 0.633
    assert told["temperature_c.thermal"] == 41.9 and told["clock_mhz.cpu5"] == 345
    assert told["load_percent.gpu"] == 0 and "clock_mhz.gpu" not in told
    assert tegrastats.parse("") == {}


def test_tegrastats_runs_beside_and_is_ended(tmp_path: Path) -> None:
    """The program is a script that says the recorded line again and again."""
    script = tmp_path / "tegrastats"
    script.write_text(f"#!/bin/sh\nwhile echo '{AGX_ORIN}'; do sleep 0.05; done\n")
    script.chmod(0o755)
    source = tegrastats.Tegrastats(0.05, str(script))
    with Watch([source], interval_s=0.02) as watch:
        while len(watch.readings) < 3:
            pass
    assert watch.highest("power_w.VIN_SYS_5V0") == 4.025
    assert source._process.poll() is not None


def test_a_phones_temperatures_are_the_hals_and_no_voltage() -> None:
    told = dumpsys.parse_thermal(PHONE)
    assert told == {
        "throttling.status": 0,
        "temperature_c.nsp6": 40.7,
        "temperature_c.nsp5": 40.3,
        "temperature_c.CPU1": 44.0,
    }
    assert dumpsys.parse_thermal("Permission Denial: can't dump") == {}


def test_a_phones_battery() -> None:
    told = dumpsys.parse_battery(BATTERY)
    assert told == {"temperature_c.battery": 32.6, "voltage_v.battery": 4.063, "level_percent.battery": 84}
    assert "voltage_v.battery" not in dumpsys.parse_battery(NO_BATTERY)


def test_a_board_in_files(tmp_path: Path) -> None:
    """Clocks, zones, rails, a counter of energy that begins again, and processor time, of which a tenth was stolen."""
    files = {
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
        "sys/class/thermal/thermal_zone0/temp": "51234",
        "sys/class/thermal/thermal_zone1/type": "unreadable",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2400000",
        "sys/class/devfreq/17000000.gpu/cur_freq": "624750000",
        "sys/class/powercap/intel-rapl:0/name": "package-0",
        "sys/class/powercap/intel-rapl:0/energy_uj": "999000000",
        "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "1000000000",
        "sys/class/hwmon/hwmon2/name": "ina3221",
        "sys/class/hwmon/hwmon2/power1_input": "4500000",
        "proc/meminfo": "MemTotal:       8123456 kB\nMemFree: 1 kB\nMemAvailable:    4027456 kB\n",
        "proc/stat": "cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2 3\n",
        "proc/cpuinfo": "cpu MHz\t\t: 1000.000\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    seconds = iter([10.0, 12.0])
    read = Sysfs(tmp_path, clock=lambda: next(seconds))
    first = read()
    assert first == {
        "temperature_c.cpu-thermal": 51.234,
        "clock_mhz.cpu0": 2400,
        "clock_mhz.17000000.gpu": 624.75,
        "power_w.ina3221": 4.5,
        "memory_mib.used": 4000,
    }
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("29000000\n")
    (tmp_path / "proc/stat").write_text("cpu  150 0 130 700 110 0 0 10 0 0\n")
    second = read()
    assert second["power_w.package-0"] == pytest.approx(15.0)
    assert second["load_percent.cpu"] == pytest.approx(90) and second["steal_percent.cpu"] == pytest.approx(10)


def test_memory_is_this_programs() -> None:
    before = peak_mib()
    ballast = bytearray(64 * 2**20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    assert peak_mib() >= before and peak_mib() > 64
