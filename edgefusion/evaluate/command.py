"""`edgefusion evaluate`: how good pictures are, or the checkpoint that draws them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgefusion.spec.errors import UserError

if TYPE_CHECKING:
    from edgefusion.evaluate.draw import Sampling
    from edgefusion.evaluate.record import Record

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Take figures of pictures, or of the checkpoint that draws them. Nothing is downloaded for a metric.",
)

Json = Annotated[bool, typer.Option("--json", help="Print the record instead of a table.")]
RecordFile = Annotated[Path | None, typer.Option("--record", help="Also write the record to this file.")]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder of what is drawn; build/evaluate/NAME without it.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many prompts.")]
Batch = Annotated[int, typer.Option(min=1, help="Pictures drawn at once.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")]
Decoder = Annotated[str, typer.Option(metavar="tiny|kl", help="Decoder of the checkpoint to draw with.")]
Download = Annotated[bool, typer.Option("--download", help="A hub id may be fetched; else only the cache.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; torch's own choice without it.")]


@app.command()
def pictures(
    folder: Annotated[Path, typer.Argument(help="Folder of pictures to judge.")],
    reference: Annotated[Path, typer.Option(help="Folder of real pictures, or of a teacher's.")],
    paired: Annotated[
        bool, typer.Option("--paired", help="Also compare files of the same name: PSNR, SSIM, st-lpips-alex.")
    ] = False,
    cache: Annotated[Path | None, typer.Option(help="Folder where features are kept for the next time.")] = None,
    record: RecordFile = None,
    as_json: Json = False,
    threads: Threads = None,
) -> None:
    """Figures of a folder of pictures: Fréchet distance to a reference, retrieval in it, paired distances.

    Retrieval needs names: in both folders a metadata.csv or .jsonl with `file_name` and `name`.

    Examples:

      edgefusion evaluate pictures made/ --reference real/

      edgefusion evaluate pictures student/ --reference teacher/ --paired --json
    """
    _prepare(threads)
    from edgefusion.evaluate.evaluation import of_pictures

    _tell(of_pictures(folder, reference, in_pairs=paired, cache=cache, silent=as_json), record, as_json)


@app.command()
def model(
    checkpoint: Annotated[str, typer.Argument(help="zoo:NAME, a diffusers folder or a hub id.")],
    prompts: Annotated[Path, typer.Option(help=".txt, a prompt a line; .csv or .jsonl with text and name.")],
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps.")] = 2,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; the checkpoint's own, else 7.5.")] = None,
    solver: Annotated[
        str, typer.Option(metavar="auto|lcm|ddim|pndm", help="auto: lcm for a two-step student, else ddim.")
    ] = "auto",
    reference: Annotated[Path | None, typer.Option(help="Folder of real pictures.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Checkpoint to draw the same noise with.")] = None,
    teacher_steps: Annotated[int, typer.Option(min=1, help="The teacher's steps, of DDIM.")] = 25,
    teacher_guidance: Annotated[float, typer.Option(help="The teacher's classifier-free guidance scale.")] = 7.5,
    decoder: Decoder = "kl",
    out: Out = None,
    limit: Limit = None,
    batch: Batch = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise; each picture has its own from it.")] = 0,
    device: Device = "cpu",
    download: Download = False,
    record: RecordFile = None,
    as_json: Json = False,
    threads: Threads = None,
) -> None:
    """Draw prompts with a checkpoint, then its figures: Fréchet distance, retrieval, distance to a teacher, time.

    Pictures are written as they are made: interrupted, the same command continues. The record is OUT/record.json.

    Examples:

      edgefusion evaluate model zoo:emoji --prompts prompts.csv --reference real/

      edgefusion evaluate model ./student --prompts prompts.txt --steps 2 --teacher ./teacher --decoder tiny
    """
    _prepare(threads)
    _check_words(decoder, device)
    from edgefusion.evaluate.draw import Sampling
    from edgefusion.evaluate.evaluation import Drawing, of_model, plain_name
    from edgefusion.evaluate.prompts import read_prompts

    asked = read_prompts(prompts, limit)
    how = _sampling(checkpoint, solver, steps, guidance, download)
    place = out or Path("build/evaluate") / f"{plain_name(checkpoint)}-{how.solver}-{steps}"
    drawing = Drawing(place, device, batch, seed, decoder, download, silent=as_json)
    theirs = Sampling(solver="ddim", steps=teacher_steps, guidance_scale=teacher_guidance)
    made = of_model(checkpoint, asked, drawing, how, reference=reference, teacher=teacher, teacher_sampling=theirs)
    _tell(made, record, as_json, place)


@app.command()
def protocol(
    checkpoint: Annotated[str, typer.Argument(help="zoo:NAME, a diffusers folder or a hub id.")],
    captions: Annotated[Path, typer.Option(help="BK-SDM's metadata.csv: file_name, text.")],
    reference: Annotated[
        Path | None, typer.Option(help="Folder of real pictures, or pytorch-fid's statistics of them (.npz).")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="2 (LCM) or 25 (PNDM) without it.")] = None,
    require: Annotated[
        list[str] | None, typer.Option(help="Begin only if this metric can be taken: fid, inception_score, clip_score.")
    ] = None,
    decoder: Decoder = "kl",
    out: Out = None,
    limit: Limit = None,
    batch: Batch = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 1234,
    device: Device = "cpu",
    download: Download = False,
    record: RecordFile = None,
    as_json: Json = False,
    threads: Threads = None,
) -> None:
    """The protocol of BK-SDM: 30,000 captions, 25 steps of PNDM at guidance 7.5 or 2 of LCM, resized to 256×256.

    FID by pytorch-fid, Inception Score by torch-fidelity, CLIP score by open_clip, each only where the tool and its
    weights are on this disk; what is missing is told. Interrupted, the same command continues.

    Examples:

      edgefusion evaluate protocol nota-ai/bk-sdm-tiny --captions metadata.csv --reference real_im256.npz --device cuda

      edgefusion evaluate protocol ./student --captions metadata.csv --reference val2014/ --limit 100
    """
    _prepare(threads)
    _check_words(decoder, device)
    from edgefusion.evaluate import external
    from edgefusion.evaluate.evaluation import Drawing, of_protocol, plain_name
    from edgefusion.evaluate.prompts import read_prompts

    words = {name.partition("_vit")[0]: name for name in external.TOOLS}
    if unknown := [word for word in require or [] if word not in words]:
        raise UserError(f"there is no metric {unknown[0]!r}.", where="--require", remedy=f"Say {', '.join(words)}.")
    place = out or Path("build/evaluate") / f"{plain_name(checkpoint)}-protocol"
    drawing = Drawing(place, device, batch, seed, decoder, download, silent=as_json)
    needed = tuple(words[word] for word in require or [])
    asked = read_prompts(captions, limit)
    made = of_protocol(checkpoint, asked, drawing, steps=steps, reference=reference, require=needed)
    _tell(made, record, as_json, place)


def _sampling(checkpoint: str, solver: str, steps: int, guidance: float | None, download: bool) -> Sampling:
    from edgefusion.evaluate.draw import Sampling
    from edgefusion.evaluate.evaluation import default_guidance
    from edgefusion.evaluate.protocol import GUIDANCE_SCALE

    if solver not in ("auto", "lcm", "ddim", "pndm"):
        raise UserError(f"there is no solver {solver!r}.", where="--solver", remedy="Say auto, lcm, ddim or pndm.")
    own, two_step = default_guidance(checkpoint, download=download)
    name = solver if solver != "auto" else "lcm" if two_step else "ddim"
    scale = guidance if guidance is not None else own if name == "lcm" else GUIDANCE_SCALE
    return Sampling.model_validate({"solver": name, "steps": steps, "guidance_scale": scale})


def _prepare(threads: int | None) -> None:
    from edgefusion.models.checkpoint import require_torch

    require_torch()
    if threads:
        import torch

        torch.set_num_threads(threads)


def _check_words(decoder: str, device: str) -> None:
    import torch

    if decoder not in ("tiny", "kl"):
        raise UserError(f"there is no decoder {decoder!r}.", where="--decoder", remedy="Say tiny or kl.")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or ["it cannot be used"])[0]
        raise UserError(f"{reason}", where=f"--device {device}", remedy="Say cpu.", exit_code=4) from error


def _tell(made: Record, file: Path | None, as_json: bool, out: Path | None = None) -> None:
    from edgefusion.evaluate.record import show, write_record

    for path in (file, out and out / "record.json"):
        if path:
            write_record(made, path)
    if as_json:
        print(json.dumps(made, indent=1, ensure_ascii=False))
    else:
        show(made)
