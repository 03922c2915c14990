"""openvino-genai's Text2ImagePipeline on the CPU.

Settings: `properties` for the CPU plugin, such as INFERENCE_PRECISION_HINT; `cache`: a compile cache beside the model.
Everything else is the pipeline's default.
"""

from __future__ import annotations

from argparse import Namespace

from protocol import PROMPT, Draw, main


def load(options: Namespace) -> Draw:
    import openvino_genai
    from PIL import Image

    properties = dict(options.settings.get("properties", {}))
    if options.settings.get("cache"):
        properties["CACHE_DIR"] = str(options.model.with_name(options.model.name + "-cache"))
    pipeline = openvino_genai.Text2ImagePipeline(options.model, "CPU", **properties)

    def draw(seed: int):
        size = {"height": options.px, "width": options.px}
        tensor = pipeline.generate(PROMPT, num_inference_steps=options.steps, rng_seed=seed, **size)
        return Image.fromarray(tensor.data[0].copy())

    return draw


if __name__ == "__main__":
    main(load, ("openvino-genai", "openvino"))
