"""A bundle of OpenVINO parts opened by openvino-genai: the same prompt and noise, the same picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

for package in ("torch", "diffusers", "onnxscript"):
    pytest.importorskip(package)

from edgefusion.export import genai, layouts, run  # noqa: E402
from edgefusion.export.plan import Plan, make_plan  # noqa: E402
from edgefusion.export.progress import Progress  # noqa: E402
from edgefusion.models.tiny import write_tiny  # noqa: E402
from edgefusion.runtime import Pipeline  # noqa: E402
from edgefusion.runtime.psnr import psnr_db  # noqa: E402

GUIDANCE = 3.0
CARD = {"license": "CC0-1.0", "guidance": {"default_scale": 2.0, "min_scale": 1.0, "max_scale": 4.0}}


def plan_of(tmp_path: Path, **options: object) -> Plan:
    weights = write_tiny(tmp_path / "weights", card=CARD, **options)  # type: ignore[arg-type]
    return make_plan("host-openvino", str(weights), tmp_path / "bundle")


@pytest.mark.slow
def test_the_same_picture_at_the_same_noise(tmp_path: Path) -> None:
    sdk = pytest.importorskip("openvino_genai", reason="openvino-genai is not installed")
    pytest.importorskip("openvino_tokenizers", reason="openvino-tokenizers is not installed")
    import openvino as ov

    plan = plan_of(tmp_path, tiny_decoder=True)  # a class of decoder that openvino-genai does not know
    made = run.export(plan, Progress(silent=True))
    assert run.up_to_date(plan), "the same inputs must find the bundle that is there"
    with Pipeline(made.out, threads=1) as pipeline:
        theirs = sdk.Text2ImagePipeline(made.out, "CPU", INFERENCE_PRECISION_HINT="f32", INFERENCE_NUM_THREADS=1)
        for prompt in ("the red apple", "a Réd emoji of the " + "apple " * 40):
            settings = pipeline.settings(guidance_scale=GUIDANCE)
            generator = sdk.CppStdGenerator(7)
            noise = [
                np.array(generator.randn_tensor(ov.Shape(list(pipeline.latent_shape))).data)
                for _ in range(settings.steps)
            ]
            text = pipeline.encode(pipeline.tokenize(prompt))
            *_, last = pipeline.sample(text, settings, noise[0], noise[1:])
            tensor = theirs.generate(
                prompt,
                guidance_scale=GUIDANCE,
                num_inference_steps=settings.steps,
                height=plan.height,
                width=plan.width,
                generator=sdk.CppStdGenerator(7),
            )
            assert psnr_db(pipeline.decode(last.latents), np.array(tensor.data)[0]) >= 40


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"prediction_type": "v_prediction"}, "epsilon alone"),
        ({"guidance": False}, "batch of two"),
        ({"family": "sdxl", "guidance": False}, "text encoders"),
    ],
)
def test_what_it_could_not_draw_is_not_offered_to_it(tmp_path: Path, options: dict[str, object], why: str) -> None:
    plan = plan_of(tmp_path, **options)
    assert why in str(genai.obstacle(plan))
    assert layouts.extra_files(plan) == {}
