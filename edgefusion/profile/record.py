"""The record of a profile: its head, and where it is written."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from edgefusion.boards import head
from edgefusion.profile.measure import Engines, Found
from edgefusion.spec import rooms
from edgefusion.spec.atomic import make_folder, write_whole
from edgefusion.spec.device import Device
from edgefusion.spec.measured import Engine, Machine
from edgefusion.spec.opened import Bundle
from edgefusion.spec.profile import Profile
from edgefusion.spec.records import record_text

HERE = "this-machine"
ROOM = "profiles"


@dataclass(frozen=True)
class Circumstances:
    """`device`: a file in devices/; `steps`: of the picture; `runs`: of each call; `note`: of the person."""

    device: str
    steps: int
    runs: int
    note: str | None = None


def recorded(bundle: Bundle, found: Found, engines: Engines, told: Circumstances) -> Profile:
    """A profile of this machine."""
    units = [layer.unit for call in found.calls for layer in call.layers]
    facts = rooms.load_device(told.device)
    return Profile(
        made=head.made_now(),
        software=head.software(),
        machine=head.machine(told.device, facts),
        subject=head.subject(bundle, told.steps, engines.activations),
        engine=head.engine(engines.backend, engines.provider, engines.threads, max(set(units), key=units.count)),
        note=told.note,
        source=found.source,
        runs=told.runs,
        calls=found.calls,
    )


def elsewhere(bundle: Bundle, found: Found, engine: str, told: Circumstances) -> Profile:
    """A profile that another machine's tools wrote: of the machine only what its file in devices/ says is told."""
    units = [layer.unit for call in found.calls for layer in call.layers]
    return Profile(
        made=head.made_now(),
        software=head.software(),
        machine=_described(told.device, rooms.load_device(told.device)),
        subject=head.subject(bundle, told.steps),
        engine=Engine(name=engine, version="?", provider="?", threads=None, unit=max(set(units), key=units.count)),
        note=told.note,
        source=found.source,
        runs=told.runs,
        calls=found.calls,
    )


def own_place(profile: Profile, activations: str | None = None) -> Path:
    """profiles/DEVICE/BUNDLE.ENGINE.profile.json in the checkout that is the current folder, else the file alone.

    Where activations or threads were asked for, the engine's name is followed by them: openvino-bf16-1t.
    """
    threads = f"{profile.engine.threads}t" if profile.engine.threads else None
    engine = "-".join(word for word in (profile.engine.name, activations, threads) if word)
    name = f"{profile.subject.name}.{engine}.profile.json"
    return Path(ROOM, profile.machine.device, name) if Path(ROOM).is_dir() else Path(name)


def write(profile: Profile, path: Path) -> None:
    """Whole or not at all.

    Raises:
        UserError: its folder cannot be made or written.
    """
    make_folder(path.parent, "--out")
    write_whole(path, record_text(profile).encode())


def _described(name: str, facts: Device) -> Machine:
    return Machine(
        device=name,
        name=facts.name,
        arch=facts.arch.value or (platform.machine() if name == HERE else "?"),
        memory_mib=facts.memory_mib.value,
        system="?",
        bandwidth_gb_s=facts.bandwidth_gb_s.value,
        peak_tops={key: fact.value for key, fact in facts.peak_tops.items() if fact.value is not None},
    )
