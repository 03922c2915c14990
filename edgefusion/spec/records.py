"""Records of `profile` and `bench` (profiles/BOARD/*.json), read by what they say they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgefusion.spec.benchmark import Benchmark
from edgefusion.spec.errors import UserError
from edgefusion.spec.json_object import json_object
from edgefusion.spec.measured import Measured
from edgefusion.spec.profile import Profile
from edgefusion.spec.strict import refuse_newer, validate

LARGEST_BYTES = 256 * 2**20
KINDS: dict[str, type[Profile] | type[Benchmark]] = {"profile": Profile, "bench": Benchmark}
ROW = 120
VERBS = "`edgefusion profile` or `edgefusion bench`"


def read_record(path: Path | str) -> Profile | Benchmark:
    """A record, whichever of the two it is.

    Raises:
        UserError: there is no such file, it is not JSON, of another kind or a newer schema, or a key is wrong; a
            profile without layers.
    """
    path = Path(path)
    data = _parsed(path)
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        said = f"its kind is {kind!r}" if "kind" in data else "it says no kind"
        raise UserError(f"is no record of {VERBS}: {said}.", where=str(path), remedy=f"Give a file that {VERBS} wrote.")
    refuse_newer(KINDS[kind], data, path)
    _require_layers(data, path)
    return validate(KINDS[kind], data, path)


def read_profile(path: Path | str) -> Profile:
    """A record of `edgefusion profile`. UserError as `read_record`, and of a benchmark."""
    record = read_record(path)
    if not isinstance(record, Profile):
        raise _other(path, "benchmark", "profile")
    return record


def read_benchmark(path: Path | str) -> Benchmark:
    """A record of `edgefusion bench`. UserError as `read_record`, and of a profile."""
    record = read_record(path)
    if not isinstance(record, Benchmark):
        raise _other(path, "profile", "bench")
    return record


def record_text(record: Measured) -> str:
    """A record as it stands in its file: JSON, a row a line, without the keys that say nothing (None)."""
    return _lines(record.model_dump(mode="json", exclude_none=True)) + "\n"


def _lines(value: Any, indent: str = "") -> str:
    """JSON broken into lines where a line would be longer than ROW."""
    flat = json.dumps(value, ensure_ascii=False)
    if not value or not isinstance(value, dict | list) or len(indent) + len(flat) <= ROW or _is_row(value):
        return flat
    inner = indent + " "
    if isinstance(value, dict):
        rows = [f"{inner}{json.dumps(key, ensure_ascii=False)}: {_lines(row, inner)}" for key, row in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + _lines(row, inner) for row in value) + f"\n{indent}]"


def _is_row(value: dict[str, Any] | list[Any]) -> bool:
    """A layer, a reading: nothing inside holds more than plain values."""
    if isinstance(value, list):
        return False
    plain = (one for row in value.values() for one in (row if isinstance(row, list) else [row]))
    return not any(isinstance(one, dict | list) for one in plain)


def _parsed(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise UserError("is larger than any record.", where=str(path), remedy=f"Give a file that {VERBS} wrote.")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}.", where=str(path), remedy="Check the path.") from error
    return json_object(content, path, f"Give a file that {VERBS} wrote, whole.")


def _require_layers(data: dict[str, Any], path: Path) -> None:
    calls = data.get("calls")
    if data["kind"] == "profile" and isinstance(calls, list):
        layers = sum(
            len(call["layers"]) for call in calls if isinstance(call, dict) and isinstance(call.get("layers"), list)
        )
        if layers == 0:
            raise UserError(
                "is a profile of no layers.", where=str(path), remedy="Measure again: edgefusion profile BUNDLE."
            )


def _other(path: Path | str, found: str, wanted: str) -> UserError:
    return UserError(
        f"is a {found}, not what `edgefusion {wanted}` writes.",
        where=str(path),
        remedy=f"Give a file that ends in .{wanted}.json.",
    )
