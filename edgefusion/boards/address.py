"""Where a board is: `ssh://user@host:port/folder`, `adb`, `adb:serial`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from edgefusion.spec.errors import UserError

REMEDY = "Give ssh://user@host, ssh://user@host:port/folder, adb, or adb:serial (adb devices lists them)."
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:%+-]*")  # cannot be taken for an option of ssh or adb


@dataclass(frozen=True)
class Address:
    """A board. `kind` is ssh or adb; `host`: for ssh a name or an alias of ~/.ssh/config, for adb the serial, "" where
    there is but one device. `folder`: where to keep things on the board, None for its user's cache folder."""

    kind: str
    host: str
    user: str | None = None
    port: int | None = None
    folder: str | None = None
    text: str = ""

    def __str__(self) -> str:
        return self.text


def parse(text: str) -> Address:
    """The address that a person wrote.

    Raises:
        UserError: it is none.
    """
    if text == "adb" or text.startswith("adb:"):
        serial = text.partition(":")[2]
        if serial and not PLAIN.fullmatch(serial):
            raise _wrong(text, f"{serial!r} is no serial")
        return Address("adb", serial, text=text)
    if not text.startswith("ssh://"):
        raise _wrong(text, "is no board's address")
    return _ssh(text)


def _ssh(text: str) -> Address:
    try:
        parts = urlsplit(text)
        host, port = parts.netloc.rpartition("@")[2].partition(":")[0], parts.port
        host = parts.hostname or "" if "[" in parts.netloc else host  # urlsplit's hostname is in small letters
    except ValueError as error:
        raise _wrong(text, str(error)) from error
    if parts.query or parts.fragment or parts.password is not None:
        raise _wrong(text, "has more than user, host, port and folder; a password is never given here")
    user = unquote(parts.username) if parts.username else None
    if not PLAIN.fullmatch(host) or (user is not None and not PLAIN.fullmatch(user)):
        raise _wrong(text, "has no plain host and user")
    folder = unquote(parts.path).rstrip("/") or None
    if folder and any(ord(letter) < 32 for letter in folder):
        raise _wrong(text, "has a folder with control characters")
    return Address("ssh", host, user, port, folder, text)


def labels(addresses: Sequence[Address]) -> list[str]:
    """A short name for each, by which its lines and files are told apart: the host, with more where hosts are equal.

    Raises:
        UserError: one is given twice.
    """
    twice = next((a for n, a in enumerate(addresses) if a in addresses[:n]), None)
    if twice:
        raise UserError("is given twice.", where=f"--on {twice}", remedy="Give each board once.")
    short = [address.host or "adb" for address in addresses]
    long = [re.sub(r"[^A-Za-z0-9_.-]+", "-", str(address).partition("://")[2] or str(address)) for address in addresses]
    return [name if short.count(name) == 1 else whole for name, whole in zip(short, long, strict=True)]


def _wrong(text: str, why: str) -> UserError:
    return UserError(f"{why}.", where=f"--on {text}", remedy=REMEDY)
