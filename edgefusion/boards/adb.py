"""A board by adb: the system's own adb, whose shell (protocol shell_v2, Android 7) gives exit codes and clean pipes.

Files go through the shell too, not by `adb push`, which begins again after a cut.
"""

from __future__ import annotations

import re
import shutil
import subprocess

from edgefusion.boards.address import Address
from edgefusion.boards.ssh import lost
from edgefusion.spec.errors import UserError

LINK_LOST = re.compile(
    r"device '.*' not found|device offline|no devices|unauthorized|error: closed|device still|protocol fault"
    r"|cannot connect"
)


class Adb:
    """The link to one device."""

    def __init__(self, address: Address) -> None:
        self.address = address

    def open(self) -> None:
        """See that the device answers.

        Raises:
            UserError: adb is not here, or says why it cannot (exit code 4).
        """
        if not shutil.which("adb"):
            remedy = "Install it: apt install adb."
            raise UserError("there is no adb on this machine.", where=str(self.address), remedy=remedy, exit_code=4)
        done = subprocess.run(
            [*self._adb(), "get-state"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode or done.stdout.strip() != "device":
            raise refused(done.stderr.strip() or done.stdout.strip(), self.address)

    def words(self, command: str) -> list[str]:
        """adb with `command` for the device's shell, without a terminal between."""
        return [*self._adb(), "shell", "-T", command]

    def fault(self, complaint: str) -> UserError | None:
        """The error where the device is gone; None where it is there."""
        done = subprocess.run([*self._adb(), "get-state"], capture_output=True, text=True, check=False)
        gone = done.returncode != 0 or LINK_LOST.search(complaint)
        return lost(str(self.address)) if gone else None

    def close(self) -> None:
        """Nothing: adb's server is the user's."""

    def _adb(self) -> list[str]:
        return ["adb", *(["-s", self.address.host] if self.address.host else [])]


def refused(complaint: str, address: Address) -> UserError:
    """The error for a device that does not answer, by what adb said."""
    said = complaint.splitlines()[-1].removeprefix("error: ").rstrip(".") if complaint else "no answer"
    rows = (
        ("unauthorized", "Unlock the device and accept this computer's key there."),
        ("more than one", "Say which: adb:SERIAL; adb devices lists them."),
        ("offline", "Reconnect the cable, or adb reconnect."),
        ("no permissions", "Install the udev rules for adb (apt install android-sdk-platform-tools-common)."),
        ("not found", "adb devices lists what is there; by network: adb connect HOST:PORT first."),
        ("no devices", "Connect one with USB debugging on; by network: adb connect HOST:PORT first."),
    )
    remedy = next((remedy for sign, remedy in rows if sign in complaint), "adb devices -l says more.")
    return UserError(f"cannot be reached: {said}.", where=str(address), remedy=remedy, exit_code=4)
