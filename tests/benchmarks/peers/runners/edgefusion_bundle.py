"""A bundle of this project in its own runtime, with the engine that its manifest names."""

from __future__ import annotations

from argparse import Namespace

from protocol import PROMPT, Draw, main


def load(options: Namespace) -> Draw:
    from edgefusion.runtime import Pipeline

    pipeline = Pipeline(options.model, **options.settings)
    return lambda seed: pipeline.generate(PROMPT, seed=seed, steps=options.steps)


if __name__ == "__main__":
    main(load, ("numpy", "tokenizers", "onnxruntime", "openvino"))
