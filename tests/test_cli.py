"""The command line: what it offers is frozen in cli_snapshot.json, and its errors are one paragraph.

`python tests/test_cli.py` writes the snapshot again after a deliberate change; say it in CHANGELOG.md.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from edgefusion import __version__, cli
from edgefusion.spec.errors import UserError

ROOT = Path(__file__).parent.parent
SNAPSHOT = Path(__file__).parent / "cli_snapshot.json"


def tree(command: Any) -> dict[str, Any]:
    """A command as data: its sub-commands, or its parameters with kind, required and default."""
    if subcommands := getattr(command, "commands", None):
        return {name: tree(sub) for name, sub in sorted(subcommands.items())}
    rows = {}
    for parameter in command.params:
        if parameter.name == "help":
            continue
        kind = parameter.param_type_name
        name = parameter.name if kind == "argument" else " ".join(sorted([*parameter.opts, *parameter.secondary_opts]))
        default = parameter.default
        rows[name] = {"kind": kind, "required": parameter.required, "default": plain(default)}
    return rows


def plain(default: Any) -> Any:
    return default if isinstance(default, (str, int, float, bool, type(None))) else str(default)


def verbs() -> dict[str, Any]:
    found = {}
    for name, verb in cli.present_verbs().items():
        command = cli.as_command(cli.load(verb))
        assert isinstance(command, typer.Typer)
        found[name] = tree(typer.main.get_command(command))
    return found


def test_verbs_and_options_are_those_promised() -> None:
    promised = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    assert verbs() == promised, "the command line changed: if you meant it, run `python tests/test_cli.py`"


@pytest.mark.parametrize("page", ["README.md", "runtime/README.md"])
def test_every_command_of_a_page_is_one(page: str) -> None:
    """Verb, sub-command and options, of the lines in its fences; against the command line as it is frozen."""
    promised, lines = json.loads(SNAPSHOT.read_text(encoding="utf-8")), commands((ROOT / page).read_text("utf-8"))
    assert lines
    for verb, *words in lines:
        assert verb in promised, (page, verb)
        node = promised[verb]
        if words and "kind" not in node.get(words[0], {"kind": ""}):
            node, words = node[words[0]], words[1:]
        known = {name for names in node for name in names.split()}
        assert not [word for word in words if re.match("--?[a-z]", word) and word not in known], (page, verb, words)


def commands(text: str) -> list[list[str]]:
    """The words after `edgefusion` or `python -m edgefusion.` of the commands between a page's fences."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    found = re.findall(r"^(?:python -m edgefusion\.|edgefusion )(.+?)(?:  +[#→].*)?$", "\n".join(fenced), re.MULTILINE)
    return [line.split() for line in found]


def edgefusion(*words: str, module: str = "edgefusion") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", module, *words], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_help_lists_the_verbs_and_imports_neither_them_nor_torch() -> None:
    code = "import sys\nfrom edgefusion import cli\ncli.overview()\nprint(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    listing, modules = done.stdout.rsplit("\n", 2)[0], done.stdout.rsplit("\n", 2)[1]
    for name in cli.present_verbs():
        assert f"  {name}  " in listing
    for heavy in ("torch", "numpy", "edgefusion.export", "edgefusion.runtime"):
        assert f"'{heavy}'" not in modules


def test_a_verb_whose_module_is_not_there_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.VERBS, "fly", cli.Verb("edgefusion.fly.command:main", "Not there."))
    assert "fly" not in cli.present_verbs()
    assert "runtime" in cli.present_verbs()


def test_the_version() -> None:
    assert edgefusion("--version").stdout.strip() == __version__


def test_an_unknown_verb_gets_the_nearest() -> None:
    done = edgefusion("runtme")
    assert done.returncode == 2
    assert done.stderr.strip() == "error: edgefusion: there is no verb 'runtme'. Did you mean 'runtime'?"


def test_both_spellings_of_a_verb_are_the_same() -> None:
    one, other = edgefusion("devices", "list", "--json"), edgefusion("list", "--json", module="edgefusion.devices")
    assert one.returncode == other.returncode == 0
    assert one.stdout == other.stdout
    assert "raspberry-pi-5" in json.loads(one.stdout)


def test_an_unknown_device_is_one_paragraph_and_exit_2() -> None:
    done = edgefusion("devices", "show", "raspberry")
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "Did you mean 'raspberry-pi-5'?" in done.stderr


def test_a_facts_source_is_shown() -> None:
    done = edgefusion("devices", "show", "galaxy-s24", "--json")
    assert json.loads(done.stdout)["engine"]["hexagon"]["value"] == "v75"


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (
            UserError("is wrong.", where="a.toml", remedy="Mend\nit.", exit_code=3),
            3,
            "error: a.toml: is wrong. Mend it.",
        ),
        (KeyboardInterrupt(), 130, cli.INTERRUPTED),
    ],
)
def test_run_turns_what_a_person_can_mend_into_one_line(
    capsys: pytest.CaptureFixture[str], raised: BaseException, code: int, line: str
) -> None:
    def main() -> None:
        raise raised

    with pytest.raises(SystemExit) as ended:
        cli.run(main, [])
    assert ended.value.code == code
    assert capsys.readouterr().err.strip() == line


def test_run_lets_a_bug_be_seen() -> None:
    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.run(main, [])


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(verbs(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(SNAPSHOT)
