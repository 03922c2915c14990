"""LCM-LoRA: adapters that change nothing at first, learn alone, travel as diffusers reads them, and fuse away."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("peft")

from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from edgefusion.distill.adapter import (  # noqa: E402
    ATTENTION,
    EVERYWHERE,
    LoRAPlan,
    add_lora,
    fuse,
    has_lora,
    load_lora,
    save_lora,
)
from edgefusion.distill.diffusion import Process  # noqa: E402
from edgefusion.distill.lora import LCMLoRA, LCMLoRAPlan  # noqa: E402
from edgefusion.distill.objective import Batch  # noqa: E402
from edgefusion.models.reference import empty_unet, reference_config  # noqa: E402
from edgefusion.models.tiny import write_tiny  # noqa: E402
from edgefusion.models.training import Parts, load_parts  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402

PLAN = LoRAPlan(rank=4, alpha=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "model", guidance=False)


@pytest.fixture(scope="module")
def parts(folder: Path) -> Parts:
    return load_parts(str(folder))


def a_batch() -> Batch:
    g = torch.Generator().manual_seed(5)
    text, null = torch.randn(2, 16, 32, generator=g), torch.randn(1, 16, 32, generator=g)
    return Batch(torch.randn(2, 4, 8, 8, generator=g), text, null)


def said(unet: UNet2DConditionModel) -> torch.Tensor:
    batch = a_batch()
    with torch.no_grad():
        return unet(batch.z0, torch.tensor([3, 500]), batch.text).sample


def trained_lora(parts: Parts, plan: LoRAPlan = PLAN) -> UNet2DConditionModel:
    """Adapters of large random numbers: what is lost or scaled wrongly shows."""
    unet = add_lora(copy.deepcopy(parts.unet), plan)
    g = torch.Generator().manual_seed(0)
    for parameter in unet.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=g) * 0.1
    return unet


def process() -> Process:
    return Process.of(DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"))


@pytest.mark.parametrize(("family", "millions"), [("sd1", 67.5), pytest.param("sdxl", 197, marks=pytest.mark.slow)])
def test_the_number_of_adapter_parameters_is_the_papers(family: str, millions: float) -> None:
    """At rank 64 (arXiv 2311.05556 Tab. 1), on the meta device; the paper rounds, and is 0.4 % above us for SD 1.5."""
    unet = add_lora(empty_unet(reference_config(family, "unet")), LoRAPlan())
    count = sum(p.numel() for p in unet.parameters() if p.requires_grad)
    assert count == {"sd1": 67_252_224, "sdxl": 196_751_360}[family]
    assert count == pytest.approx(millions * 1e6, rel=0.005)


def test_adapters_change_nothing_at_first_and_are_all_that_is_trained(parts: Parts) -> None:
    unet = add_lora(copy.deepcopy(parts.unet), PLAN, seed=1)
    assert torch.equal(said(unet), said(parts.unet))
    names = {name for name, p in unet.named_parameters() if p.requires_grad}
    assert names and all(".lora_A." in name or ".lora_B." in name for name in names)
    inside = {name.split(".lora_")[0] for name in names}
    assert all(any(name.endswith("." + end) for end in EVERYWHERE) for name in inside)
    plain = {n for n, m in parts.unet.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)}
    assert plain - inside == {"conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"}
    again = add_lora(copy.deepcopy(parts.unet), PLAN, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(unet.parameters(), again.parameters(), strict=True))


def test_fused_is_a_plain_unet_that_says_the_same(parts: Parts) -> None:
    unet = trained_lora(parts)
    plain = fuse(unet)
    assert type(plain) is UNet2DConditionModel and not has_lora(plain) and has_lora(unet)
    assert plain.state_dict().keys() == parts.unet.state_dict().keys()
    torch.testing.assert_close(said(plain), said(unet), atol=1e-5, rtol=0)
    assert float((said(plain) - said(parts.unet)).abs().max()) > 0.1
    half = (said(fuse(unet, scale=0.5)) - said(parts.unet)).abs().max()
    assert 0 < float(half) < float((said(unet) - said(parts.unet)).abs().max())


def test_the_file_is_what_diffusers_pipelines_load(parts: Parts, folder: Path, tmp_path: Path) -> None:
    unet = trained_lora(parts)
    path = save_lora(unet, tmp_path / "lora")
    assert [entry.name for entry in path.parent.iterdir()] == ["pytorch_lora_weights.safetensors"]
    assert all(key.startswith("unet.") for key in load_file(path))
    scheduler = DDPMScheduler(steps_offset=1, clip_sample=False)
    pipe = StableDiffusionPipeline(
        parts.vae,
        parts.text_encoders[0],
        parts.tokenizers[0],
        copy.deepcopy(parts.unet),
        scheduler,
        None,
        None,
        requires_safety_checker=False,
    )
    pipe.load_lora_weights(path.parent)
    torch.testing.assert_close(said(pipe.unet), said(unet))
    mine = load_lora(copy.deepcopy(parts.unet), path)
    torch.testing.assert_close(said(fuse(mine)), said(unet), atol=1e-5, rtol=0)


def test_only_adapters_learn_and_the_target_is_the_student(parts: Parts) -> None:
    """Under autocast too, where a copy of a weight made for the target must not be the student's."""
    for half in (False, True):
        student = copy.deepcopy(parts.unet)
        lcm = LCMLoRA(student, copy.deepcopy(parts.unet), process(), lora=PLAN)
        assert lcm.followers == {} and lcm.trained is student
        calls: list[tuple[object, bool]] = []
        student.register_forward_pre_hook(
            lambda _m, _a, kw, calls=calls: calls.append((kw.get("timestep_cond"), torch.is_grad_enabled())),
            with_kwargs=True,
        )
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = lcm.loss(a_batch(), torch.Generator().manual_seed(0))["consistency"]
        loss.backward()
        assert loss.dtype == torch.float32 and calls == [(None, False), (None, True)]
        ups = {name: p.grad for name, p in student.named_parameters() if ".lora_B." in name}
        assert ups and all(grad is not None and float(grad.abs().sum()) > 0 for grad in ups.values()), half
        assert all(p.grad is None for name, p in student.named_parameters() if ".lora_" not in name)


def test_guidance_is_one_number_by_default(parts: Parts) -> None:
    assert LCMLoRAPlan().omega(3, torch.Generator()).tolist() == [7.5] * 3
    wide = LCMLoRAPlan(omega_min=5, omega_max=15).omega(100, torch.Generator().manual_seed(0))
    assert 5 <= float(wide.min()) < 7 and 13 < float(wide.max()) <= 15


def test_training_lowers_the_loss_and_moves_adapters_only(parts: Parts) -> None:
    student, teacher = copy.deepcopy(parts.unet), copy.deepcopy(parts.unet)
    lcm = LCMLoRA(student, teacher, process(), LCMLoRAPlan(omega_min=1, omega_max=1), PLAN)
    frozen = {name: p.clone() for name, p in student.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=5e-3)
    values = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = lcm.loss(a_batch(), torch.Generator().manual_seed(0))["consistency"]
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.8 * values[0]
    assert all(torch.equal(p, frozen[name]) for name, p in student.named_parameters() if name in frozen)


def test_what_cannot_be_is_refused(parts: Parts, tmp_path: Path) -> None:
    plain, teacher = copy.deepcopy(parts.unet), copy.deepcopy(parts.unet)
    with pytest.raises(UserError, match="no layer of the U-Net is named query"):
        add_lora(plain, LoRAPlan(modules=("query",)))
    with pytest.raises(UserError, match="no LoRA adapters to save"):
        save_lora(plain, tmp_path)
    with pytest.raises(UserError, match="no LoRA adapters to fuse"):
        fuse(plain)
    with pytest.raises(UserError, match="one module"):
        LCMLoRA(plain, plain, process())
    few = load_parts(str(write_tiny(tmp_path / "few", guidance=True)), only={"unet"}).unet
    with pytest.raises(UserError, match="guidance embedding, which LCM-LoRA does not use"):
        LCMLoRA(few, teacher, process())
    with pytest.raises(UserError, match="has LoRA adapters already"):
        add_lora(add_lora(plain, LoRAPlan(modules=ATTENTION, rank=2)), PLAN)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be written"):
        save_lora(plain, tmp_path / "file")


def test_a_file_for_another_unet_is_named(parts: Parts, tmp_path: Path) -> None:
    path = save_lora(trained_lora(parts), tmp_path)
    other = load_parts(str(write_tiny(tmp_path / "other", guidance=False)), only={"unet"}).unet
    narrow = UNet2DConditionModel.from_config({**dict(other.config), "block_out_channels": (8, 16)})
    with pytest.raises(UserError, match="holds no LoRA for this U-Net"):
        load_lora(narrow, path)
    (tmp_path / "torn.safetensors").write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="holds no LoRA"):
        load_lora(copy.deepcopy(parts.unet), tmp_path / "torn.safetensors")
