"""What all spec models share: unknown keys are errors, a newer schema too, and a failure names file, key and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from edgefusion.spec.errors import UserError


class Strict(BaseModel):
    """A pydantic model that refuses unknown keys and silent type coercion, and is immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


M = TypeVar("M", bound=Strict)


def validate(model: type[M], data: object, where: Path | str) -> M:
    """`data` (as read from TOML or JSON) as a `model`; a UserError naming every wrong key of `where` otherwise."""
    refuse_newer(model, data, where)
    try:
        return model.model_validate(data, strict=False)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(key) for key in row['loc']) or '(top level)'}: {row['msg']}" for row in error.errors()
        )
        raise UserError(
            f"not a valid {model.__name__}: {problems}.",
            where=str(where),
            remedy="Mend the keys named here; unknown keys are refused so that a typing error cannot pass.",
        ) from error


def refuse_newer(model: type[Strict], data: object, where: Path | str) -> None:
    """A UserError where `data` is of a later schema_version than any that `model` knows: its keys say nothing then."""
    field = model.model_fields.get("schema_version")
    version = data.get("schema_version") if isinstance(data, dict) else None
    if field is not None and isinstance(version, int) and version > (known := max(get_args(field.annotation))):
        raise UserError(
            f"has schema_version {version}; this edgefusion reads {known}.",
            where=str(where),
            remedy="Update edgefusion (pip install -U edgefusion), or make it again with this one.",
        )
