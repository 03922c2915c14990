"""`edgefusion compare A B`: two profiles, two benchmarks or two bundles, and whether B is worse beyond the noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edgefusion.report.comparison import Comparison, compare
from edgefusion.report.comparison_text import markdown, show
from edgefusion.report.given import Given, give_all
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.errors import UserError

FAILED = 3


def main(
    a: Annotated[Path, typer.Argument(metavar="A", help="What was: a record of profile or bench, or a bundle.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="What is: the same kind of thing.")],
    depth: Annotated[int, typer.Option(min=1, help="Levels of the module tree; 1 is up_blocks.2.")] = 2,
    top: Annotated[int, typer.Option(min=1, help="Rows of modules and operators, those that moved most.")] = 20,
    fail_above: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="5% or 0.05: exit 3 when the picture or a part is slower, or memory or size larger, by more than this "
            "and, for times, beyond the noise.",
        ),
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Compare although machine, threads, size or steps differ.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, every row.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write it to a file (.json, else Markdown).")] = None,
) -> None:
    """Hold B beside A: per part, module and operator, with size, memory and PSNR.

    A row is slower or faster when the 95 % interval of the ratio of medians, bootstrapped from the raw runs of both,
    leaves out no change and the medians differ by 1 % or more. Fewer than four runs on a side tell nothing.

    Example:  edgefusion compare old.profile.json new.profile.json --depth 3 --fail-above 5%
    """
    limit = share(fail_above) if fail_above is not None else None
    found = comparable(give_all([a, b]), depth, anyway)
    if out:
        text = json_text(found) if out.suffix == ".json" else markdown(found, top)
        write_whole(out, text.encode("utf-8"))
    if as_json:
        print(json_text(found), end="")
    elif as_markdown:
        print(markdown(found, top), end="")
    elif not out:
        show(found, top)
    if limit is not None:
        judge(found, limit)


def comparable(pair: list[Given], depth: int, anyway: bool) -> Comparison:
    """The comparison.

    Raises:
        UserError: two different kinds of thing, or (but `anyway`) times taken under different conditions.
    """
    a, b = pair
    if a.kind != b.kind:
        raise UserError(
            f"one is a {a.kind}, the other a {b.kind}.",
            where=f"{a.path}, {b.path}",
            remedy="Give two of the same kind.",
        )
    found = compare(a, b, depth)
    if found.obstacles and not anyway:
        raise UserError(
            f"not comparable: {'; '.join(found.obstacles)}.",
            where=f"{a.path}, {b.path}",
            remedy="Measure both in the same way, or say --anyway, and the difference is theirs too.",
        )
    return found


def judge(found: Comparison, limit: float) -> None:
    """UserError (exit code 3) where B is worse than A by more than `limit`, or (2) where its times cannot be judged."""
    untold = [row.name for row in found.group("picture") if row.verdict == "untold"]
    if untold:
        raise UserError(
            "too few runs to tell slower from noise.",
            where=", ".join(found.names),
            remedy="Measure again with --runs 5 or more.",
        )
    failures = found.failures(limit)
    if failures:
        rows = ", ".join(f"{row.group} {row.name} {row.change:+.1%}" for row in failures)
        raise UserError(
            f"worse by more than {limit:.3g}: {rows}.",
            where=found.names[1],
            remedy="Find the layers with `edgefusion compare` of two profiles, or raise --fail-above.",
            exit_code=FAILED,
        )


def share(text: str) -> float:
    """0.05 of "5%" or "0.05". UserError of what is no share of 0 or more."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UserError(f"{text!r} is no share.", where="--fail-above", remedy="Give 5% or 0.05.")
    return value


def json_text(found: Comparison) -> str:
    """JSON, a newline at the end."""
    return json.dumps(found.as_json(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    from edgefusion.cli import run

    run(main)
