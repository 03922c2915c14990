"""The tiny decoder: its distillation, the folder it leaves, and its way through diffusers and export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusers import AutoencoderKL, AutoencoderTiny  # noqa: E402

from edgefusion.distill.decoder import (  # noqa: E402
    CARD,
    DecoderDistillation,
    TinyPlan,
    card_of,
    fidelity_db,
    kl_pictures,
    new_tiny,
    save_tiny,
)
from edgefusion.distill.objective import Batch  # noqa: E402
from edgefusion.evaluate.perceptual import Perceptual  # noqa: E402
from edgefusion.models.tiny import write_tiny  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402

SMALL = {"width": 8, "blocks": (1, 1, 1, 1)}
SCALE = 0.18215


def _batch(count: int = 4, side: int = 8, seed: int = 0) -> Batch:
    z0 = torch.randn((count, 4, side, side), generator=torch.Generator().manual_seed(seed))
    return Batch(z0, torch.zeros(count, 1, 1), torch.zeros(1, 1, 1))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    card = {"guidance": {"default_scale": 2.0, "min_scale": 1.0, "max_scale": 4.0}}
    return write_tiny(tmp_path_factory.mktemp("weights") / "tiny", card=card)


@pytest.fixture(scope="module")
def vae(checkpoint: Path) -> AutoencoderKL:
    """The tiny family's, made to draw something: random decoders are nearly grey."""
    vae = AutoencoderKL.from_pretrained(checkpoint / "vae")
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(4)
    return vae.requires_grad_(False).eval()


def _fit(objective: DecoderDistillation, batch: Batch, steps: int, rate: float = 3e-3) -> list[float]:
    parameters = [p for p in objective.trained.parameters() if p.requires_grad]
    optimizer, seen = torch.optim.Adam(parameters, lr=rate), []
    for step in range(steps):
        loss = torch.stack([*objective.loss(batch, torch.Generator().manual_seed(step)).values()]).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step()
        seen.append(float(loss.detach()))
    return seen


@pytest.fixture(scope="module")
def distilled(vae: AutoencoderKL) -> tuple[DecoderDistillation, list[float], float]:
    plan = TinyPlan(**SMALL, noise=0.05)
    objective = DecoderDistillation(vae, plan, Perceptual())
    before = fidelity_db(objective.tiny, vae, _batch(seed=9).z0)
    return objective, _fit(objective, _batch(4), 36, 5e-3), before


def test_distillation_lowers_the_loss_and_nears_the_kl_decoder(
    distilled: tuple[DecoderDistillation, list[float], float], vae: AutoencoderKL
) -> None:
    objective, seen, before = distilled
    assert sum(seen[-5:]) < 0.5 * sum(seen[:5])
    assert fidelity_db(objective.tiny, vae, _batch(seed=9).z0) > before + 3  # latents it has not seen
    assert all(parameter.grad is None for parameter in vae.parameters())


def test_a_folder_that_diffusers_loads_and_whose_encoder_is_told_to_be_untrained(
    distilled: tuple[DecoderDistillation, list[float], float], checkpoint: Path, tmp_path: Path
) -> None:
    objective = distilled[0]
    folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    card = card_of(objective.tiny, objective.plan, "zoo:tiny", 60, psnr_db=20.0, pictures=4)
    vae_tiny = save_tiny(folder, objective.tiny, card)
    loaded = AutoencoderTiny.from_pretrained(vae_tiny)
    z = _batch().z0
    torch.testing.assert_close(loaded.decode(z).sample, objective.tiny.decode(z).sample)
    assert loaded.config.scaling_factor == 1.0
    assert not loaded.encode(torch.randn(1, 3, 64, 64)).latents.any()
    told = json.loads((vae_tiny / CARD).read_text("utf-8"))
    assert told["encoder"] == "untrained" and told["psnr_db"] == 20.0
    assert told["parameters"] == sum(p.numel() for p in loaded.decoder.parameters())
    save_tiny(folder, new_tiny(TinyPlan(**SMALL), seed=1), card)  # replaced, nothing left beside it
    assert sorted(p.name for p in folder.glob("*vae*")) == ["vae", "vae_tiny"]
    changed = AutoencoderTiny.from_pretrained(vae_tiny).decode(z).sample
    assert not torch.allclose(changed, objective.tiny.decode(z).sample)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["tiny", "kl"])
def test_export_takes_either_decoder(
    distilled: tuple[DecoderDistillation, list[float], float], checkpoint: Path, tmp_path: Path, decoder: str
) -> None:
    pytest.importorskip("onnxscript")
    from edgefusion.check import check
    from edgefusion.export.plan import make_plan
    from edgefusion.export.progress import Progress
    from edgefusion.export.run import export

    objective = distilled[0]
    folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    save_tiny(folder, objective.tiny, card_of(objective.tiny, objective.plan, "zoo:tiny", 60))
    plan = make_plan("host", str(folder), tmp_path / "out", decoder=decoder)
    manifest = export(plan, Progress(silent=True)).bundle.manifest
    assert check(tmp_path / "out").passed
    latent_scale = SCALE if decoder == "kl" else 1.0
    assert manifest.sampler.latent_scale == pytest.approx(latent_scale)
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    kl_parameters = sum(p.numel() for m in (vae.decoder, vae.post_quant_conv) for p in m.parameters())
    tiny_parameters = sum(p.numel() for p in objective.tiny.decoder.parameters())
    assert manifest.parts["decoder"].parameters == (kl_parameters if decoder == "kl" else tiny_parameters)
    assert manifest.parts["decoder"].psnr_db >= manifest.parts["decoder"].floor_db
    assert manifest.recipe.decoder == decoder
    auto = make_plan("host", str(folder), tmp_path / "auto")
    assert auto.recipe.decoder == "auto" and auto.layout.weights["decoder"][0].parent.name == "vae_tiny"


def test_the_word_on_the_command_line_outranks_the_recipe_and_a_missing_tiny_is_told(
    checkpoint: Path, tmp_path: Path
) -> None:
    from edgefusion.export.plan import make_plan

    kl = make_plan("host", str(checkpoint), tmp_path / "out", decoder="kl")
    auto = make_plan("host", str(checkpoint), tmp_path / "out")
    assert kl.recipe.decoder == "kl" and auto.recipe.decoder == "auto"
    assert kl.fingerprint() != auto.fingerprint()
    with pytest.raises(UserError, match=r"--decoder.*no vae_tiny/.*distill decoder"):
        make_plan("host", str(checkpoint), tmp_path / "out", decoder="tiny")
    with pytest.raises(UserError, match=r"--decoder.*'small'.*tiny or kl"):
        make_plan("host", str(checkpoint), tmp_path / "out", decoder="small")


def test_a_tiny_decoder_whose_configuration_leaves_its_scale_out_has_diffusers_default(
    checkpoint: Path, tmp_path: Path
) -> None:
    from edgefusion.export.plan import make_plan

    folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    new_tiny(TinyPlan(**SMALL)).save_pretrained(folder / "vae_tiny")
    path = folder / "vae_tiny/config.json"
    config = json.loads(path.read_text("utf-8"))
    del config["scaling_factor"]
    path.write_text(json.dumps(config), "utf-8")
    assert make_plan("host", str(folder), tmp_path / "out").sampler().latent_scale == 1.0
    assert make_plan("host", str(folder), tmp_path / "out", decoder="kl").sampler().latent_scale == SCALE


def test_the_teacher_sees_exact_latents_in_their_own_scale(vae: AutoencoderKL) -> None:
    z = _batch().z0
    want = vae.decode(z / SCALE).sample.clamp(-1, 1)
    torch.testing.assert_close(kl_pictures(vae, z, batch=3), want, atol=1e-5, rtol=1e-5)

    class Echo(AutoencoderTiny):
        seen: torch.Tensor

        def decode(self, x, **_):  # noqa: ANN001, ANN003, ANN202
            self.seen = x
            return (kl_pictures(vae, x),)

    plan = TinyPlan(**SMALL, perceptual=0, noise=0.2)
    echo = Echo(decoder_block_out_channels=(8,) * 4, num_decoder_blocks=(1,) * 4)
    objective = DecoderDistillation(vae, plan, start=echo)
    noisy = objective.loss(_batch(), torch.Generator().manual_seed(0))
    level = (echo.seen - z).std((1, 2, 3))
    assert (level > 0).all() and (level < 0.25).all() and len(set(level.tolist())) == 4
    exact = DecoderDistillation(vae, TinyPlan(**SMALL, perceptual=0, noise=0), start=echo).loss(
        _batch(), torch.Generator().manual_seed(0)
    )
    assert set(exact) == {"l1", "mse"} and float(exact["l1"]) < 1e-6 < float(noisy["l1"])


def test_losses_are_a_function_of_the_generator(vae: AutoencoderKL) -> None:
    objective = DecoderDistillation(vae, TinyPlan(**SMALL, perceptual=0, crop=4))
    first, second, other = (
        float(objective.loss(_batch(), torch.Generator().manual_seed(seed))["l1"].detach()) for seed in (0, 0, 1)
    )
    assert first == second != other


def test_a_trained_encoder_finds_the_latents(vae: AutoencoderKL) -> None:
    plan = TinyPlan(**SMALL, perceptual=0, noise=0, encoder=True)
    objective = DecoderDistillation(vae, plan)
    terms = objective.loss(_batch(4), torch.Generator())
    before = float(terms["latents"].detach())
    _fit(objective, _batch(4), 30, 5e-3)
    assert float(objective.loss(_batch(4), torch.Generator())["latents"].detach()) < 0.8 * before
    assert card_of(objective.tiny, plan, "zoo:tiny", 30).encoder == "trained"


def test_crops_and_taesd_shape(vae: AutoencoderKL) -> None:
    tiny = new_tiny(TinyPlan())
    assert sum(p.numel() for p in tiny.decoder.parameters()) == 1_222_531  # TAESD's decoder
    seen = []
    objective = DecoderDistillation(vae, TinyPlan(**SMALL, crop=6), lambda x, y: seen.append(x.shape) or (x - y).mean())
    objective.loss(_batch(2), torch.Generator().manual_seed(0))
    assert seen == [(2, 3, 48, 48)]


def test_what_does_not_fit_is_told(vae: AutoencoderKL, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no distance was given"):
        DecoderDistillation(vae, TinyPlan(**SMALL))
    with pytest.raises(UserError, match="3 stages enlarge 4 times; .* 8 times.*Give 4 numbers"):
        DecoderDistillation(vae, TinyPlan(blocks=(1, 1, 1), perceptual=0))
    tiny = new_tiny(TinyPlan(**SMALL))
    with pytest.raises(UserError, match="no model_index.json"):
        save_tiny(tmp_path, tiny, card_of(tiny, TinyPlan(**SMALL), "zoo:tiny", 1))


def test_a_full_disk_leaves_the_decoder_that_was_there(checkpoint: Path, tmp_path: Path) -> None:
    import resource

    folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    plan = TinyPlan(**SMALL)
    tiny = new_tiny(plan)
    save_tiny(folder, tiny, card_of(tiny, plan, "zoo:tiny", 1))
    before = {path.name: path.read_bytes() for path in (folder / "vae_tiny").iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # less than the weights
    try:
        with pytest.raises(UserError, match="cannot be written"):
            save_tiny(folder, new_tiny(plan, seed=2), card_of(tiny, plan, "zoo:tiny", 2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in (folder / "vae_tiny").iterdir()} == before
    assert sorted(p.name for p in folder.glob("*vae*")) == ["vae", "vae_tiny"]
