"""`edgefusion report`: sums are right, what comes from a record is escaped, and the page works in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import measured_records as made
import pytest
from command_line import status

from edgefusion.profile.command import main as profile_command
from edgefusion.report import bars, kinds, layer_table, roofline, sums, timeline
from edgefusion.report.command import main
from edgefusion.report.comparison import compare
from edgefusion.report.drawing import ticks
from edgefusion.report.given import give, give_all
from edgefusion.report.tree import ITSELF, Node, tree
from edgefusion.spec.errors import UserError
from edgefusion.spec.records import read_profile

EVIL = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two profiles and a benchmark, the second profile's texts hostile."""
    folder = tmp_path_factory.mktemp("records")
    made.write(folder / "old.profile.json", made.profile())
    slow = made.profile({"up_blocks.1.attentions": 1.5}, note=EVIL)
    calls = [*slow.calls]
    layers = (*calls[0].layers, made.layer(f"{EVIL}.x", EVIL, 0.3, kernel=EVIL))
    calls[0] = calls[0].model_copy(update={"layers": layers})
    subject = made.subject(name=EVIL, student=EVIL)
    made.write(folder / "new.profile.json", slow.model_copy(update={"calls": tuple(calls), "subject": subject}))
    made.write(folder / "some.bench.json", made.bench())
    return folder


@pytest.fixture(scope="module")
def records(folder: Path) -> list[Path]:
    return [folder / name for name in ("old.profile.json", "new.profile.json", "some.bench.json")]


@pytest.fixture(scope="module")
def page(folder: Path, records: list[Path], tiny: Path) -> Path:
    out = folder / "report.html"
    assert status(main, *records, tiny, "-o", out) == 0
    return out


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    program = browser.found()
    if program is None:
        pytest.skip("no Chromium here (apt install chromium, or EDGEFUSION_BROWSER=/path): the page was not looked at")
    with browser.Browser(program, tmp_path_factory.mktemp("browser")) as one:
        yield one


def nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children.values():
        yield from nodes(child)


def test_the_tree_holds_every_millisecond_once() -> None:
    profile = made.profile()
    root = tree(profile)
    spent = sum(sums.middle(layer.times_ms) for _, layer in sums.layers(profile))
    rest = sum(sums.left_over(call) for call in profile.calls)
    assert root.ms == pytest.approx(spent + rest) and rest == pytest.approx(0.4, abs=1e-2)
    for node in nodes(root):
        if node.children:
            assert sum(child.ms for child in node.children.values()) == pytest.approx(node.ms), node.name
    block = root.children["unet"].children["up_blocks.1"].children["attentions.0"].children["transformer_blocks.0"]
    assert list(block.children["attn1"].children) == ["to_q", ITSELF, "to_out.0"]
    assert block.children["attn1"].children[ITSELF].ms == pytest.approx(1.6), "both steps"
    assert root.children["unet"].layers == 2 * len(made.unet())


def test_attribution_joining_and_overhead() -> None:
    profile = made.profile()
    walls = sum(sums.middle(call.walls_ms) for call in profile.calls)
    assert sums.attributed(profile) == pytest.approx(1 - 0.4 / walls, abs=1e-3)
    assert sums.joined(profile) == 1 and sums.overhead(profile) == pytest.approx(0.02, abs=1e-3)
    call = profile.calls[0]
    lost = made.layer("x", "Reorder", 0.6, modules=())
    told = call.model_copy(update={"layers": (*call.layers, lost), "recordings_ms": (0.05,) * 5})
    half = profile.model_copy(update={"calls": (told,)})
    assert sums.joined(half) == pytest.approx(0.5, abs=1e-2)
    assert sums.inside(told) == pytest.approx(sums.middle(call.walls_ms) - 0.05)
    assert tree(half).children["text_encoder"].children[sums.TOLD_NOWHERE].ms == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("kind", "module", "name"),
    [
        ("Convolution", "conv_in", "convolution"),
        ("QLinearConv", "conv_in", "convolution"),
        ("NhwcFusedConv", "conv_in", "convolution"),
        ("Convert", "x", "data movement"),
        ("DequantizeLinear", "x", "data movement"),
        ("FakeQuantize", "x", "data movement"),
        ("FullyConnected", "a.attn1.to_q", "linear"),
        ("native_call_linear.out", "x", "linear"),
        ("DynamicQuantizeMatMul", "ff.net.2", "linear"),
        ("MatMul", "a.attn1", "attention"),
        ("Subgraph", "mid_block.attentions.0", "attention"),
        ("Softmax", "x", "attention"),
        ("MultiHeadAttention", "x", "attention"),
        ("SkipLayerNormalization", "x", "normalisation"),
        ("MVN", "x", "normalisation"),
        ("Eltwise", "x", "elementwise"),
        ("BiasGelu", "x", "elementwise"),
        ("Transpose", "a.attn1", "data movement"),
        ("ReorderInput", "x", "data movement"),
        ("EPContext", "x", "other"),
    ],
)
def test_engines_names_fall_into_classes(kind: str, module: str, name: str) -> None:
    assert kinds.class_of(made.layer(module, kind, 1.0)) == name


def test_levels_are_read_as_people_read_them() -> None:
    path = "up_blocks.2.attentions.0.transformer_blocks.0.ff.net.0.proj"
    assert kinds.levels(path) == ("up_blocks.2", "attentions.0", "transformer_blocks.0", "ff", "net.0", "proj")
    assert kinds.levels("") == ()


def test_the_roofline_is_arithmetic_over_bytes_and_time() -> None:
    profile = made.profile()
    conv = next(point for point in roofline.points(profile) if point.module == "conv_out")
    assert conv.ms == pytest.approx(0.4) and conv.gops == pytest.approx(2 * 4e7 / 1e6, rel=1e-2)
    assert conv.intensity == pytest.approx(2 * 2 * 0.2 * 4e7 / (2 * 28000), rel=1e-2)
    row = next(row for row in layer_table.layer_rows(profile, 99) if row[0] == "conv_out")
    assert row[6:] == ["80", "40%", "0.14", "1%"], "80 of 200 GOP/s, 0.14 of 20 GB/s"
    blind = [layer.model_copy(update={"macs": None}) for layer in profile.calls[0].layers]
    only = profile.model_copy(update={"calls": (profile.calls[0].model_copy(update={"layers": tuple(blind)}),)})
    assert roofline.drawn(only) is None
    low = profile.model_copy(update={"machine": made.machine(peak_tops={"fp32": 0.05})})
    assert roofline.above(profile) == 0 and roofline.above(low) == pytest.approx(0.74, abs=0.01)


def test_a_module_stands_where_most_of_it_ran() -> None:
    """Engines start late modules' first layers early: what reads the text or the time alone."""
    profile = made.profile()
    early = made.layer("up_blocks.1.resnets.0.time_emb_proj", "FullyConnected", 0.01)
    calls = [call.model_copy(update={"layers": (early, *call.layers)}) for call in profile.calls]
    mixed = profile.model_copy(update={"calls": tuple(calls)})
    order = ["conv_in", "down_blocks.0", "up_blocks.1", "conv_out"]
    assert [name for name in tree(mixed).children["unet"].children if name in order] == order
    assert [key[1] for key in sums.by_module(mixed, 1) if key[0] == "unet"] == order


def test_the_timeline_is_whole_and_thin_pieces_are_not_lost() -> None:
    profile = made.profile()
    lanes = timeline.lanes(profile)
    end = sum(piece.ms for piece in lanes["calls"])
    assert end == pytest.approx(tree(profile).ms)
    assert sum(piece.ms for piece in lanes["operators"]) == pytest.approx(end)
    assert [piece.label for piece in lanes["calls"]][1:3] == ["unet, step 1", "unet, step 2"]
    merged = timeline.merged(lanes["operators"], end / 20)
    assert len(merged) < len(lanes["operators"]) and sum(piece.ms for piece in merged) == pytest.approx(end)


def test_bars_are_on_one_scale(records: list[Path]) -> None:
    stack = bars.stacks(give_all(records))[0]
    widths = [float(shape.attributes["width"]) for shape in bars.drawn(stack).shapes if shape.tag == "rect"]
    times = [piece.ms for _, pieces in stack.bars for piece in pieces]
    assert widths[1] / widths[4] == pytest.approx(times[1] / times[4], rel=0.01)


def test_ticks() -> None:
    assert ticks(0, 17, 8) == [0, 5, 10, 15] and ticks(12.8, 13.1, 8) == pytest.approx(
        [12.8, 12.85, 12.9, 12.95, 13, 13.05, 13.1]
    )
    assert ticks(3, 3, 8) == [3]


def test_the_page_needs_nothing_but_itself(page: Path) -> None:
    text = page.read_text("utf-8")
    assert set(re.findall(r'(?:src|href)="(data:|#|.{9})', text)) == {"data:", "#"}, "no other file"
    assert "http://" not in text and "https://" not in text
    assert text.count("<script>") == 1 and EVIL not in text and "<img src=x" not in text


def test_markdown_and_plots(folder: Path, records: list[Path]) -> None:
    pytest.importorskip("matplotlib", reason="plots need the extra report")
    from PIL import Image

    assert status(main, *records, "-o", folder / "report.md", "--plots", folder / "plots") == 0
    text = (folder / "report.md").read_text("utf-8")
    plots = re.findall(r"\]\((plots/[^)]+\.png)\)", text)
    assert len(plots) == 3 + 1 + 2 * 3
    for name in plots:
        with Image.open(folder / name) as image:
            assert image.width > 1000 and len(image.convert("L").getcolors(256) or []) > 10, name
    assert re.search(r"\| unet \| 13.3 ms \| 15.1 ms \| 9 ms \|", text), "parts of all three"
    assert "<script" not in text and "### new beside old" not in text and "## new beside old" in text


def test_pictures_and_their_golden_stand_in_the_page(page: Path, tmp_path: Path, tiny: Path) -> None:
    text = page.read_text("utf-8")
    assert text.count('<img src="data:image/png;base64,') == 2 and "drawn for this page" in text
    wrong = tmp_path / "a.png"
    wrong.write_bytes(b"\x89PNG no")
    with pytest.raises(UserError, match="is no picture"):
        main([tiny], tmp_path / "r.html", picture=[f"mine={wrong}"])


def test_records_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        made.write(tmp_path / folder / "a.profile.json", made.profile())
    made.write(tmp_path / "one/b.profile.json", made.profile())
    made.write(tmp_path / "one/b.bench.json", made.bench())
    names = [one.name for one in give_all(sorted(tmp_path.rglob("*.json")))]
    assert names == ["one/a.profile.json", "b.bench", "b.profile", "two/a.profile.json"]


def test_wrong_words_are_told(records: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        ((records[0],), "where should the page go?"),
        ((records[0], "-o", tmp_path / "r.pdf"), "is neither .html nor .md"),
        ((records[0], "-o", tmp_path / "r.html", "--check"), "--check is of tables"),
        ((tmp_path / "gone.json", "-o", tmp_path / "r.html"), "there is no such record"),
        ((tmp_path, "-o", tmp_path / "r.html"), "has no manifest.json"),
    ):
        assert status(main, *words) == 2
        assert said in capsys.readouterr().err
    assert give(records[0]).name == "old"


def test_a_profile_as_the_verb_writes_it(tiny: Path, tmp_path: Path) -> None:
    """The real thing: ONNX Runtime's profiler on the tiny bundle, which names no module."""
    record, out = tmp_path / "tiny.profile.json", tmp_path / "tiny.html"
    assert status(profile_command, tiny, "--runs", 4, "--threads", 1, "--out", record) == 0
    assert status(main, record, "-o", out) == 0
    profile = read_profile(record)
    root = tree(profile)
    assert list(root.children) == ["text_encoder", "unet", "decoder"] and root.ms > 0
    assert {class_ for node in nodes(root) for class_ in node.classes} >= {"convolution", "elementwise"}
    assert "tiny" in out.read_text("utf-8") and sums.overhead(profile) is not None
    assert compare(*give_all([record, record])).group("picture")[0].verdict == "same"


def test_the_page_renders_without_a_word_in_the_console(page: Path, shown: browser.Browser) -> None:
    for dark in (False, True):
        shown.open(page, dark=dark)
        assert shown.value("document.title") == "Where the time goes", "a record's text was run"
        colours = shown.value(
            "[document.body, document.querySelector('.soft'), document.querySelector('a')].flatMap("
            "(e) => [getComputedStyle(e).color, getComputedStyle(document.body).backgroundColor])"
        )
        assert all(contrast(*pair) >= 4.5 for pair in zip(colours[::2], colours[1::2], strict=True)), colours
    assert not shown.console
    assert all(url.startswith(("file:", "data:")) for url in shown.requests)
    assert shown.value("document.querySelectorAll('svg').length") >= 3 + 1 + 2 + 2 * 2
    assert shown.value("document.documentElement.scrollWidth <= window.innerWidth"), "nothing sticks out of the page"


def test_letters_in_cells_can_be_read(page: Path, shown: browser.Browser) -> None:
    shown.open(page, dark=True)
    pairs = shown.value(
        "[...document.querySelectorAll('.cells > div:not(.left)')].map((e) => [getComputedStyle(e).color, "
        "getComputedStyle(e).backgroundColor])"
    )
    assert pairs and all(contrast(*pair) >= 4.5 for pair in pairs)


def test_a_narrow_window_scrolls_figures_not_the_page(page: Path, shown: browser.Browser) -> None:
    shown.open(page, width=400)
    assert shown.value("document.documentElement.scrollWidth") <= 400


def test_the_tree_opens_by_click(page: Path, shown: browser.Browser) -> None:
    shown.open(page)
    assert "attn1" not in cells(shown), "four levels are shown at first"
    shown.click(*centre(shown, "up_blocks.1"))
    assert crumbs(shown) == "picture › unet › up_blocks.1" and "attn1" in cells(shown) and "decoder" not in cells(shown)
    shown.value("document.querySelector('.crumbs button').click()")
    assert crumbs(shown) == "picture" and "decoder" in cells(shown)
    shown.value("document.querySelector('details.outline > summary').click()")
    assert shown.value("document.querySelector('details.outline').checkVisibility()")
    assert not shown.console


def test_the_tree_opens_by_keyboard(page: Path, shown: browser.Browser) -> None:
    shown.open(page)
    for _ in range(60):
        shown.press("Tab")
        if focused(shown):
            break
    assert focused(shown) == "picture", "Tab reaches the tree, which is one stop"
    for key in ("ArrowDown", "ArrowRight", "ArrowDown", "ArrowRight", "ArrowRight"):
        shown.press(key)
    assert focused(shown) == "up_blocks.1"
    assert "unet › up_blocks.1: 6.1 ms" in shown.value("document.querySelector('.told').textContent")
    shown.press("Enter")
    assert crumbs(shown) == "picture › unet › up_blocks.1" and focused(shown) == "up_blocks.1"
    assert shown.value("document.activeElement.getAttribute('aria-expanded')") == "true"
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        shown.press(key)
    assert focused(shown) == "conv1"
    shown.press("Escape")
    assert (
        crumbs(shown) == "picture › unet" and shown.value("document.querySelectorAll('[tabindex=\"0\"]').length") == 2
    )
    shown.press("Tab")
    assert focused(shown) != "unet" and not shown.console


def test_without_scripts_the_list_is_there(page: Path, shown: browser.Browser) -> None:
    shown.open(page, script=False)
    assert shown.value("document.querySelector('.icicle').hidden") and shown.value(
        "document.querySelectorAll('details.outline summary, details.outline .leaf').length > 40"
    )
    shown("Emulation.setScriptExecutionDisabled", value=False)


def test_it_prints(page: Path, shown: browser.Browser, tmp_path: Path) -> None:
    shown.open(page, dark=True)
    shown("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert shown.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    shown("Emulation.setDeviceMetricsOverride", width=720, height=900, deviceScaleFactor=1, mobile=False)
    assert shown.value("document.documentElement.scrollWidth") <= 720, "a sheet of A4 holds it"
    assert not shown.value("document.querySelector('#environment details').open")
    shown("Emulation.setEmulatedMedia", media="")
    shown.printed(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").stat().st_size > 50_000
    assert shown.value("document.querySelector('#environment details').open"), "paper cannot be clicked"


def cells(shown: browser.Browser) -> list[str]:
    """The names in the first tree that is shown."""
    found: Any = shown.value("[...document.querySelector('.cells').children].map((e) => e.textContent)")
    return list(found)


def crumbs(shown: browser.Browser) -> str:
    return str(shown.value("document.querySelector('.crumbs').textContent"))


def focused(shown: browser.Browser) -> str:
    return str(shown.value("document.activeElement.matches('.cells > div') ? document.activeElement.textContent : ''"))


def centre(shown: browser.Browser, name: str) -> tuple[float, float]:
    """Where a cell of the first tree is, after it was scrolled to."""
    box: Any = shown.value(
        f"(() => {{ const e = [...document.querySelector('.cells').children].find((e) => e.textContent === "
        f"{json.dumps(name)}); e.scrollIntoView({{block: 'center', behavior: 'instant'}}); "
        "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
    )
    return box[0], box[1]


def contrast(ink: str, paper: str) -> float:
    """WCAG 2.2's contrast of two `rgb(…)` colours."""

    def light(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(ink), light(paper)))
    return (high + 0.05) / (low + 0.05)
