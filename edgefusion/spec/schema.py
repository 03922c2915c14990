"""JSON Schema of the spec models, for editors and for people who read bundles in other languages.

`python -m edgefusion.spec.schema` writes edgefusion/spec/schema/{device,recipe,bundle,profile,benchmark}.json; a test
compares them with the models.
"""

from __future__ import annotations

import json
from pathlib import Path

from edgefusion.spec.atomic import write_whole
from edgefusion.spec.benchmark import Benchmark
from edgefusion.spec.bundle import Manifest
from edgefusion.spec.device import Device
from edgefusion.spec.profile import Profile
from edgefusion.spec.recipe import Recipe
from edgefusion.spec.strict import Strict

FOLDER = Path(__file__).parent / "schema"
MODELS: dict[str, type[Strict]] = {
    "device": Device,
    "recipe": Recipe,
    "bundle": Manifest,
    "profile": Profile,
    "benchmark": Benchmark,
}


def schema_text(name: str) -> str:
    """The schema of one model as it stands in its file: JSON, keys sorted, a newline at the end."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **MODELS[name].model_json_schema()}
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def write_all(folder: Path = FOLDER) -> list[Path]:
    """Write all schemas; their paths."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{name}.json" for name in MODELS]
    for path in paths:
        write_whole(path, schema_text(path.stem).encode())
    return paths


if __name__ == "__main__":
    for written in write_all():
        print(written)
