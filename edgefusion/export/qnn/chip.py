"""The chip of a device file, as the NPU's compiler wants to know it."""

from __future__ import annotations

from edgefusion.backends._qnn_session import Soc
from edgefusion.spec.device import Device
from edgefusion.spec.errors import UserError

KEYS = ("qnn_soc", "qnn_soc_model", "hexagon")


def chip_of(device: Device) -> Soc:
    """Name, number, architecture and local memory of the NPU.

    Raises:
        UserError: the device file does not say one of them.
    """
    facts = {key: device.engine[key].value if key in device.engine else None for key in KEYS}
    missing = [f"engine.{key}" for key in KEYS if not facts[key]] + ([] if device.sram_kib.value else ["sram_kib"])
    if missing:
        raise UserError(
            f"its file does not say {', '.join(missing)}, which the NPU's compiler has to know.",
            where=device.name,
            remedy="Add the facts with their sources in devices/; see devices/snapdragon-8-gen-3.toml.",
        )
    arch = str(facts["hexagon"]).removeprefix("v")
    return Soc(str(facts["qnn_soc"]), str(facts["qnn_soc_model"]), arch, int(device.sram_kib.value or 0) // 1024)
