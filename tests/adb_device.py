"""A minimal adbd on the loopback: enough of the adb protocol for the real adb to open shells on this machine.

Debian has no adbd, and an emulator is gigabytes. Written after the public description of the protocol (AOSP,
packages/modules/adb: protocol.txt, and shell_protocol.h for shell_v2): CNXN without AUTH, OPEN, OKAY, WRTE, CLSE, and
the service `shell,v2,raw:COMMAND`. What it cannot show is an Android system: its toybox, SELinux and missing Python.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import struct
import subprocess
import threading
from dataclasses import dataclass, field

HEADER = struct.Struct("<6I")
CNXN, OPEN, OKAY, WRTE, CLSE = (
    int.from_bytes(name, "little") for name in (b"CNXN", b"OPEN", b"OKAY", b"WRTE", b"CLSE")
)
VERSION, MOST_BYTES = 0x01000001, 256 * 1024
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
BANNER = b"device::ro.product.name=t;ro.product.model=t;ro.product.device=t;features=shell_v2,cmd"


class Device:
    """Listens until `close`; its shells have the environment given. `opened`: the services asked for, in order."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.opened: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._links: list[socket.socket] = []
        self.received_bytes = 0
        self.cut_after_bytes: int | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Drop every connection, as a cable does."""
        for link in self._links:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stop."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = self._listener.accept()
                self._links.append(link)
                threading.Thread(target=_Connection(self, link).serve, daemon=True).start()


@dataclass
class _Stream:
    """One shell. `ready` holds a token for each packet that may be written to the host."""

    number: int
    theirs: int
    child: subprocess.Popen[bytes]
    ready: queue.Queue[None] = field(default_factory=queue.Queue)
    unread: bytes = b""


class _Connection:
    def __init__(self, device: Device, link: socket.socket) -> None:
        self.device, self.link, self.lock = device, link, threading.Lock()
        self.streams: dict[int, _Stream] = {}
        self.last = 0

    def serve(self) -> None:
        """Answer until the host goes, then end what its shells left."""
        with contextlib.suppress(OSError, EOFError):
            while True:
                command, first, second, size, _, _ = HEADER.unpack(self._exactly(HEADER.size))
                self._answer(command, first, second, self._exactly(size))
        for stream in list(self.streams.values()):
            with contextlib.suppress(OSError):
                assert stream.child.stdin
                stream.child.stdin.close()
            stream.ready.put(None)

    def _answer(self, command: int, first: int, second: int, data: bytes) -> None:
        if command == CNXN:
            self._send(CNXN, VERSION, MOST_BYTES, BANNER)
        elif command == OPEN:
            self._open(first, data.rstrip(b"\0").decode())
        elif command == OKAY and second in self.streams:
            self.streams[second].ready.put(None)
        elif command == WRTE and second in self.streams:
            self._take(self.streams[second], data)
        elif command == CLSE and (stream := self.streams.pop(second, None)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(stream.child.pid, signal.SIGHUP)
            stream.ready.put(None)

    def _open(self, theirs: int, service: str) -> None:
        self.device.opened.append(service)
        kind, _, command = service.partition(":")
        if not kind.startswith("shell,v2"):
            self._send(CLSE, 0, theirs)
            return
        self.last += 1
        pipe = subprocess.PIPE
        child = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=self.device.environment,
            cwd="/",
            start_new_session=True,
        )
        stream = self.streams[self.last] = _Stream(self.last, theirs, child)
        stream.ready.put(None)
        self._send(OKAY, stream.number, theirs)
        threading.Thread(target=self._tell, args=(stream,), daemon=True).start()

    def _take(self, stream: _Stream, data: bytes) -> None:
        stream.unread += data
        self.device.received_bytes += len(data)
        assert stream.child.stdin
        while len(stream.unread) >= 5:
            kind, size = struct.unpack_from("<BI", stream.unread)
            if len(stream.unread) < 5 + size:
                break
            piece, stream.unread = stream.unread[5 : 5 + size], stream.unread[5 + size :]
            with contextlib.suppress(OSError, ValueError):
                if kind == STDIN:
                    stream.child.stdin.write(piece)
                    stream.child.stdin.flush()
                elif kind == CLOSE_STDIN:
                    stream.child.stdin.close()
        most = self.device.cut_after_bytes
        if most is not None and self.device.received_bytes > most:
            self.device.cut_after_bytes = None
            self.device.cut()
        self._send(OKAY, stream.number, stream.theirs)

    def _tell(self, stream: _Stream) -> None:
        child = stream.child
        readers = [
            threading.Thread(target=self._pass, args=(stream, kind, pipe), daemon=True)
            for kind, pipe in ((STDOUT, child.stdout), (STDERR, child.stderr))
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        code = child.wait()
        with contextlib.suppress(OSError):
            self._write(stream, EXIT, bytes([code & 255]))
            stream.ready.get()
            self._send(CLSE, stream.number, stream.theirs)
        self.streams.pop(stream.number, None)

    def _pass(self, stream: _Stream, kind: int, pipe: object) -> None:
        with contextlib.suppress(OSError):
            while piece := os.read(pipe.fileno(), 60_000):  # type: ignore[attr-defined]
                self._write(stream, kind, piece)

    def _write(self, stream: _Stream, kind: int, data: bytes) -> None:
        stream.ready.get()
        self._send(WRTE, stream.number, stream.theirs, struct.pack("<BI", kind, len(data)) + data)

    def _send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        with self.lock:
            packet = HEADER.pack(command, first, second, len(data), sum(data) & 0xFFFFFFFF, command ^ 0xFFFFFFFF)
            self.link.sendall(packet + data)

    def _exactly(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            piece = self.link.recv(size - len(got))
            if not piece:
                raise EOFError
            got += piece
        return got
