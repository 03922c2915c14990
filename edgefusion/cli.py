"""The command line: `edgefusion <verb> …` and `python -m edgefusion.<verb> …` are the same thing.

A verb is one line in `VERBS`. Its module is imported only when it is called, so `edgefusion --help` is quick and works
without torch; a verb whose module is not in this installation is not listed.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn

from edgefusion import __version__
from edgefusion.spec.errors import UserError

TALKATIVE = ("torchao", "torch.utils._pytree")
"""diffusers imports torchao where it is installed, which then speaks of kernels for GPUs that nothing here asks for."""
INTERRUPTED = "Interrupted; run the same command again to continue."
ON_BOARDS = "edgefusion.boards.command:on_boards"
ON_HELP = "Do it on this board instead: ssh://user@host, ssh://host:22/folder, adb or adb:serial. May be repeated."


class Verb(NamedTuple):
    """`target`: "module:name" of a function with typer-annotated parameters, or of a `typer.Typer`.

    `on_boards`: the function takes `--on` and is then run on those boards (edgefusion/boards); it knows nothing of it.
    """

    target: str
    summary: str
    on_boards: bool = False


VERBS: dict[str, Verb] = {
    "export": Verb("edgefusion.export.command:main", "Make a bundle for a target from a checkpoint (needs torch)."),
    "runtime": Verb("edgefusion.runtime.command:main", "Make a picture from a bundle and a prompt.", True),
    "build": Verb("edgefusion.build:main", "Build a bundle's TensorRT engines on the board, and prove them.", True),
    "bench": Verb("edgefusion.bench.command:main", "Measure a picture: cold, warm, part by part, and the board.", True),
    "check": Verb("edgefusion.check:main", "Verify a bundle: hashes, and the golden replayed.", True),
    "profile": Verb("edgefusion.profile.command:main", "Time every layer of a picture, joined to its modules.", True),
    "predict": Verb("edgefusion.predict.command:main", "Predict a picture's time on a board that is not here."),
    "devices": Verb("edgefusion.devices:app", "List, show or measure boards."),
    "boards": Verb("edgefusion.boards.kept_command:app", "List or remove what --on has left on boards."),
    "report": Verb(
        "edgefusion.report.command:main", "Write a page about records, or make the tables of Markdown files anew."
    ),
    "compare": Verb("edgefusion.compare:main", "Hold two profiles, benchmarks or bundles side by side."),
    "compress": Verb("edgefusion.compress.command:main", "Cut a student out of a checkpoint, its weights inherited."),
    "distill": Verb("edgefusion.distill.command:app", "Teach a student: features, few steps, a decoder, a concept."),
    "evaluate": Verb("edgefusion.evaluate.command:app", "Take figures of pictures or of a checkpoint (needs torch)."),
    "models": Verb("edgefusion.models.command:app", "Make full-size checkpoints of random numbers (needs torch)."),
    "quantize": Verb("edgefusion.quantize.command:app", "Find the layers that mind eight bits; choose bits by time."),
    "data": Verb("edgefusion.data.command:app", "Choose, crop, caption, draw and cache training pictures."),
    "zoo": Verb("edgefusion.zoo.command:main", "Train the small family from nothing, in stages (needs torch)."),
}


def installed(verb: Verb) -> bool:
    """Whether the verb's module is in this installation, found without importing anything."""
    inside = verb.target.partition(":")[0].split(".")[1:]
    path = Path(__file__).parent.joinpath(*inside)
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def present_verbs() -> dict[str, Verb]:
    """The verbs of this installation."""
    return {name: verb for name, verb in VERBS.items() if installed(verb)}


def load(verb: Verb) -> Any:
    """The function or `typer.Typer` a verb points to (imports its module)."""
    return _loaded(verb.target)


def _loaded(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def run(function: Any, args: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Run one verb as a command and exit: UserError as one paragraph on stderr, Ctrl-C as one line and status 130.

    Args:
        function: a function with typer-annotated parameters, or a `typer.Typer`.
        args: the words after the verb; those of this process without it.
        prog: the name usage lines show; `python -m edgefusion.<verb>` without it.
    """
    guarded(lambda: as_command(function)(args=args, prog_name=prog))


def guarded(call: Callable[[], object]) -> NoReturn:
    """Do `call` and exit 0, or print what a person can mend and exit with its code."""
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        call()
    except UserError as error:
        _complain(f"error: {' '.join(str(error).split())}")
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        _complain(INTERRUPTED)
        raise SystemExit(130) from None
    except SystemExit as end:
        if end.code == 130:  # typer has turned the KeyboardInterrupt into this
            _complain(INTERRUPTED)
        raise
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone, `… | head`
        raise SystemExit(141) from None
    raise SystemExit(0)


def _complain(line: str) -> None:
    print(line, file=sys.stderr)


def as_command(function: Any) -> Callable[..., object]:
    """The command of a verb's function, `--on` among its options where VERBS says so; a `typer.Typer` as it is."""
    import typer

    if isinstance(function, typer.Typer):
        return function
    name = _name_of(function)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(_with_boards(function, name) if name else function)
    return app


def _name_of(function: Callable[..., object]) -> str | None:
    """The verb of boards that a function is; `python -m edgefusion.check` calls the module __main__."""
    module = function.__module__
    if module == "__main__" and (spec := getattr(sys.modules["__main__"], "__spec__", None)):
        module = spec.name
    target = f"{module}:{function.__name__}"
    return next((name for name, verb in VERBS.items() if verb.on_boards and verb.target == target), None)


def _with_boards(function: Callable[..., object], name: str) -> Callable[..., object]:
    """`function` with the option --on: without it as it was, with it run on those boards by the same words."""
    import typer

    def called(context: typer.Context, **given: Any) -> object:
        boards = given.pop("on")
        return _loaded(ON_BOARDS)(name, signature, context, boards) if boards else function(**given)

    signature = inspect.signature(function, eval_str=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    rows = [row.replace(kind=keyword) for row in signature.parameters.values()]
    on = Annotated[list[str] | None, typer.Option("--on", metavar="BOARD", help=ON_HELP)]
    rows.insert(0, inspect.Parameter("context", keyword, annotation=typer.Context))
    rows.append(inspect.Parameter("on", keyword, annotation=on, default=None))
    called.__signature__ = signature.replace(parameters=rows)  # type: ignore[attr-defined]
    called.__annotations__ = {row.name: row.annotation for row in rows}
    called.__doc__ = function.__doc__
    return called


def overview() -> None:
    """Print the verbs, one a line."""
    from rich.console import Console
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, verb in present_verbs().items():
        table.add_row(f"  {name}", verb.summary)
    console = Console(highlight=False)
    console.print("Usage: edgefusion VERB …\n\nFrom a Stable Diffusion checkpoint to a two-step picture.\n")
    console.print(table)
    console.print("\n`edgefusion VERB --help` for one of them; `--version` for the version.")


def unknown_verb(word: str) -> UserError:
    """The error for a verb that is not there, with the nearest that is."""
    names = list(present_verbs())
    near = difflib.get_close_matches(word, names, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"The verbs are {', '.join(names)}."
    return UserError(f"there is no verb {word!r}.", where="edgefusion", remedy=hint)


def main() -> NoReturn:
    """The `edgefusion` script."""
    words = sys.argv[1:]
    if words and words[0] in present_verbs():
        run(load(VERBS[words[0]]), words[1:], f"edgefusion {words[0]}")
    guarded(lambda: _without_verb(words))


def _without_verb(words: Sequence[str]) -> None:
    if not words or words[0] in ("--help", "-h"):
        overview()
    elif words[0] == "--version":
        print(__version__)
    else:
        raise unknown_verb(words[0])
