"""`--on BOARD`, once or several times: a verb on boards at once. One that fails does not stop the others."""

from __future__ import annotations

import inspect
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from edgefusion.boards.adb import Adb
from edgefusion.boards.address import Address, labels, parse
from edgefusion.boards.link import Link
from edgefusion.boards.ssh import Ssh
from edgefusion.boards.verb import Outcome, Tell, run_verb
from edgefusion.boards.words import Words, words_of
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import Bundle, open_bundle
from edgefusion.spec.user_folder import user_cache

GOODBYE_S = 20.0


def on_boards(verb: str, signature: inspect.Signature, context: Any, boards: list[str]) -> None:
    """Run `verb`, whose words typer has read, on each of these boards; results come back, lines are passed on.

    With one board its output is this one's, and files go where the words say. With several each board's output comes
    whole when it ends, `--json` gives one object of all, and files go into a folder named after the board.

    Raises:
        SystemExit: a verb ended with another status than 0 (that of the worst), or a board could not be used.
        UserError: an address is none, or the bundle is not one.
    """
    addresses = [parse(text) for text in boards]
    names = labels(addresses)
    words = words_of(signature, context)
    bundle = open_bundle(words.bundle, verify=False)
    links = [Link(row, name, transport_of(row)) for row, name in zip(addresses, names, strict=True)]
    outcomes = _all(links, verb, words, bundle)
    if len(links) > 1:
        _print_all(outcomes, words)
    for outcome in outcomes:
        print(outcome.line(verb), file=sys.stderr)
    if worst := max((outcome.code for outcome in outcomes), default=0):
        raise SystemExit(worst)


def transport_of(address: Address) -> Any:
    """The program that reaches it."""
    return Ssh(address) if address.kind == "ssh" else Adb(address)


def _all(links: list[Link], verb: str, words: Words, bundle: Bundle) -> list[Outcome]:
    lock = threading.Lock()
    with ThreadPoolExecutor(len(links)) as pool:
        alone = len(links) == 1
        jobs = [pool.submit(_one, link, verb, words, bundle, lock, alone) for link in links]
        try:
            while not all(job.done() for job in jobs):
                time.sleep(0.05)
        except KeyboardInterrupt:
            for link in links:
                link.abort()
            _wait(jobs)
            raise
        return [job.result() for job in jobs]


def _wait(jobs: list[Any]) -> None:
    end = time.monotonic() + GOODBYE_S
    while not all(job.done() for job in jobs) and time.monotonic() < end:
        time.sleep(0.05)


def _one(link: Link, verb: str, words: Words, bundle: Bundle, lock: threading.Lock, alone: bool) -> Outcome:
    start = time.monotonic()
    into = "" if alone else link.label
    try:
        return run_verb(
            link, verb, words, bundle, user_cache() / "edgefusion" / "boards", into, _tell(link.label, lock, alone)
        )
    except UserError as error:
        return Outcome(link.label, error.exit_code, error, seconds=time.monotonic() - start)
    finally:
        link.close()


def _tell(label: str, lock: threading.Lock, alone: bool) -> Tell:
    def put(stream: Any, piece: bytes) -> None:
        with lock:
            stream.buffer.write(piece)
            stream.flush()

    def said(line: str) -> None:
        put(sys.stderr, f"{label}: {line}\n".encode())

    def err(piece: bytes) -> None:
        put(sys.stderr, piece if alone else f"{label}: ".encode() + piece)

    return Tell(said, err, (lambda piece: put(sys.stdout, piece)) if alone else None)


def _print_all(outcomes: list[Outcome], words: Words) -> None:
    """Each board's output, in the order they were named."""
    if words.as_json:
        print(json.dumps({outcome.label: _parsed(outcome) for outcome in outcomes}, indent=2, ensure_ascii=False))
        return
    for outcome in outcomes:
        print(f"== {outcome.label}", flush=True)
        sys.stdout.buffer.write(outcome.out)
        sys.stdout.flush()


def _parsed(outcome: Outcome) -> Any:
    try:
        return json.loads(outcome.out)
    except ValueError:
        return {"error": str(outcome.error) if outcome.error else f"status {outcome.code}"}
