"""The board's side of TensorRT, without one: rules, recorded files, saved profiles, and the order of our calls."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorrt_double as double

from edgefusion import build
from edgefusion.backends import _cuda, _plan, _trtexec, tensorrt
from edgefusion.backends._cache import Cache
from edgefusion.backends._layer import counted
from edgefusion.boards import jetson
from edgefusion.runtime.parts import own_backend
from edgefusion.spec.bundle import Part
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import Bundle, open_bundle
from edgefusion.spec.rooms import load_device

ORIN = load_device("jetson-orin-nano-8gb")
RELEASES = {
    "36": "# R36 (release), REVISION: 4.7, GCID: 42132812, BOARD: generic, EABI: aarch64, DATE: Thu Sep 18 22:54:44 "
    "UTC 2025\n# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n",
    "35": "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, DATE: Tue Aug  1 19:57:35 "
    "UTC 2023\n",
}
MEMINFO = (
    "MemTotal:        7802816 kB\nMemFree:          191488 kB\nMemAvailable:    4910080 kB\nSwapTotal:  {swap} kB\n"
)


def recorded(
    root: Path, release: str = "36", swap: int = 3901400, mode: str = "NV Power Mode: 15W\n0\n"
) -> jetson.Board:
    for name, text in {
        "etc/nv_tegra_release": RELEASES[release],
        "proc/meminfo": MEMINFO.format(swap=swap),
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return jetson.told(root, lambda: mode)


def part(precision: str = "fp32", activations: str = "fp16", dtype: str = "int64") -> Part:
    """t [1] → y float32 [2]."""
    y: dict[str, Any] = {"name": "y", "dtype": "float32", "shape": (2,)}
    t: dict[str, Any] = {"name": "t", "dtype": dtype, "shape": (1,)}
    facts: dict[str, Any] = {"precision": precision, "activations": activations, "parameters": 0}
    return Part.model_validate(
        {
            "file": "unet/model.onnx",
            "format": "onnx",
            "inputs": (t,),
            "outputs": (y,),
            "psnr_db": 99.0,
            "floor_db": 60.0,
        }
        | facts
    )


def test_a_board_as_its_files_tell(tmp_path: Path) -> None:
    board = recorded(tmp_path)
    assert (board.linux, board.available_mib, board.total_mib, board.swap_mib) == ("36.4.7", 4795, 7619, 3809)
    assert (board.power_mode, board.power_id) == ("15W", 0)
    assert board.model == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert board.jetpack and board.jetpack.tensorrt == "10.3" and board.jetpack.version == "6.1 or 6.2"
    old = recorded(tmp_path, "35", mode="NV Power Mode: MAXN_SUPER\n2\n")
    assert old.jetpack and (old.jetpack.version, old.jetpack.tensorrt, old.power_id) == ("5.1.2", "8.5", 2)


def test_no_jetson(tmp_path: Path) -> None:
    board = jetson.told(tmp_path, lambda: "NV Power Mode: 15W\n0\n")
    assert board == jetson.Board(None, None, 0, 0, 0, None, None) and board.jetpack is None
    assert "no Jetson" in jetson.advice(board, ORIN, "10.3.0")[0].what


def test_advice_has_remedies(tmp_path: Path) -> None:
    said = jetson.advice(recorded(tmp_path, swap=0), ORIN, "10.3.0")
    assert [row.what.split()[0] for row in said] == ["power", "there"]
    assert "nvpmodel -m" in said[0].remedy and "NVMe" in said[1].remedy
    assert not jetson.advice(recorded(tmp_path, mode="NV Power Mode: MAXN_SUPER\n2\n"), ORIN, "10.3.0")
    newer = jetson.advice(recorded(tmp_path, mode="NV Power Mode: 25W\n1\n"), ORIN, "10.7.0")
    assert "checked for TensorRT 10.3" in newer[0].what


def test_memory_for_the_builder(tmp_path: Path) -> None:
    board = recorded(tmp_path)
    assert jetson.workspace_mib(board, 300 * 2**20) == 4795 - 700 - 900
    assert jetson.workspace_mib(board, 2**20, 512) == 512
    for size, wanted in ((1300 * 2**20, None), (2**20, 4500)):
        with pytest.raises(UserError, match="too little memory: 4795 MiB are free") as caught:
            jetson.workspace_mib(board, size, wanted)
        assert caught.value.exit_code == 4 and "--workspace" in str(caught.value)


def test_a_bundle_for_another_board_is_refused() -> None:
    jetson.require_device(ORIN, "10.3.0", "8.7")
    with pytest.raises(UserError, match=r"compute capability 8.7; this GPU has 7.2"):
        jetson.require_device(ORIN, "10.3.0", "7.2")
    with pytest.raises(UserError, match=r"checked for TensorRT 10.3; here is 8.5.2.2, which is older"):
        jetson.require_device(ORIN, "8.5.2.2", "8.7")


@pytest.mark.parametrize(
    ("precision", "activations", "version", "words"),
    [
        ("fp32", "fp32", "10.3.0", "--noTF32"),
        ("fp32", "fp16", "10.3.0", "--fp16"),
        ("fp32", "fp16", "8.5.2", "--fp16"),
        ("fp16", "fp16", "8.5.2", "--fp16"),
        ("fp16", "fp16", "10.3.0", "--stronglyTyped"),
        ("int8", "fp16", "10.3.0", "--int8 --fp16"),
        ("int8", "fp32", "10.3.0", "--int8 --noTF32"),
        ("int8", "fp32", "11.0.0", "--stronglyTyped --noTF32"),
    ],
)
def test_the_rules_of_an_engine(precision: str, activations: str, version: str, words: str) -> None:
    made = part(precision, activations)
    assert " ".join(_plan.rules_of(made, version).words) == words
    line = _plan.command(Path("b/unet/model.onnx"), Path("unet.plan"), made, version, 2048)
    assert f" {words} --memPoolSize=workspace:2048 " in line
    assert line.endswith("--buildOnly" if version.startswith("8.5") else "--skipInference")


def test_tensorrt_11_chooses_no_types() -> None:
    with pytest.raises(UserError, match="takes every type from the graph"):
        _plan.rules_of(part("fp32", "fp16"), "11.0.0")


LAYER_INFO = {
    "Layers": [
        {
            "Name": "conv_in.weight + conv_in/QuantizeLinear_7 + conv_in/node_conv2d",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "sample", "Format/Datatype": "Row major linear FP32"}],
            "TacticName": "ampere_fp32_icudnn_int8x4_128x64_relu_medium_nn_v1",
            "TacticValue": "0xb29abdd00304c881",
        },
        {
            "Name": "__myl_MeanSubMulMean_myl0_3",
            "LayerType": "kgen",
            "TacticName": "__myl_MeanSubMulMean_0x1",
            "Metadata": "[ONNX Layer: mid.norm1/node_layer_norm]\x1f[ONNX Layer: mid.attn1.to_q/node_linear]\x1e"
            "[ONNX Layer: c]",
        },
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to conv_out/node_conv2d",
            "LayerType": "Reformat",
            "TacticValue": "0x3e8",
        },
        {"Name": "{ForeignNode[mid.norm1/node_a...mid.ff/node_b]}", "LayerType": "Myelin"},
        {"Name": "PWN(up.conv/node_Sigmoid, up.conv/node_mul)", "LayerType": "PointWiseV2"},
    ],
    "Bindings": ["sample", "out_sample"],
}  # fmt: skip


def times(*, median: bool) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"count": 2}]
    for index, row in enumerate(LAYER_INFO["Layers"]):
        facts = {"name": row["Name"], "timeMs": 2.0 * (index + 1), "averageMs": index + 1.0, "percentage": 10.0}
        rows.append(facts | ({"medianMs": index + 0.5} if median else {}))
    return rows


@pytest.mark.parametrize("median", [True, False])
def test_a_saved_profile_is_joined_to_modules(tmp_path: Path, median: bool) -> None:
    (tmp_path / "times.json").write_text(json.dumps(times(median=median)))
    (tmp_path / "layers.json").write_text(json.dumps(LAYER_INFO))
    rows = _trtexec.read(tmp_path / "times.json", tmp_path / "layers.json")
    assert [row.module for row in rows] == ["conv_in", "mid.norm1", "conv_out", "mid.norm1", "up.conv"]
    assert rows[1].sources == ("mid.norm1/node_layer_norm", "mid.attn1.to_q/node_linear")
    assert rows[3].sources == ("mid.norm1/node_a", "mid.ff/node_b")
    assert rows[0].kind == "CaskConvolution" and rows[0].kernel.startswith("ampere_") and rows[2].kernel == "0x3e8"
    assert [row.time_ms for row in rows] == [index + (0.5 if median else 1.0) for index in range(5)]
    bare = _trtexec.read(tmp_path / "times.json")
    assert [row.kind for row in bare] == [""] * 5 and bare[0].module == "conv_in"


def test_names_alone_are_layers_too(tmp_path: Path) -> None:
    """What trtexec 8.6 and later write without --profilingVerbosity=detailed."""
    info = {"Layers": ["conv_in/node_conv2d [profile 0]"]}
    rows = _trtexec.joined(
        info, _trtexec.times([{"name": "conv_in/node_conv2d [profile 0]", "averageMs": 1}], "p"), "p"
    )
    assert [(row.name, row.module, row.time_ms) for row in rows] == [("conv_in/node_conv2d", "conv_in", 1.0)]


@pytest.mark.parametrize("text", ["{", "{}", "[1]", "[]", '[{"name": "a"}]'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "times.json").write_text(text)
    with pytest.raises(UserError, match=r"times.json: (is not what trtexec writes|cannot be read)"):
        _trtexec.read(tmp_path / "times.json")


class Board:
    """A double of TensorRT on this machine, and a folder of engines."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.patch, self.model = patch, folder / "bundle/unet/model.onnx"
        self.model.parent.mkdir(parents=True)
        self.model.write_bytes(b"onnx")
        self.cache = Cache(folder / "engines", {"bundle": "b", "part": "unet"})

    def has(self, version: str = "10.3.0", capability: str = "8.7", narrow: bool = False, **refuses: bool) -> Any:
        tensors = {"t": ("int32" if narrow else "int64", (1,), True), "y": ("float32", (2,), False)}
        made = double.module(version, tensors, **refuses)
        library = double.Cudart(capability, "cudaMalloc" if refuses.get("memory") else "")
        self.patch.setitem(sys.modules, "tensorrt", made)
        self.patch.setattr(_cuda.ctypes, "CDLL", lambda name: library)
        made.library = library
        return made


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Board:
    return Board(monkeypatch, tmp_path)


def test_an_engine_is_built_kept_and_loaded(board: Board) -> None:
    sdk = board.has()
    path, made = tensorrt.build(board.model, part("int8"), board.cache, workspace_mib=300)
    assert made and path.read_bytes() == b"engine of 10.3.0"
    assert ("set_memory_pool_limit", ["WORKSPACE", 300 * 2**20]) in sdk.calls
    assert [words for name, words in sdk.calls if name == "set_flag"] == [["INT8"], ["FP16"]]
    assert ("create_network", 0) in sdk.calls and ("create_timing_cache", [b""]) in sdk.calls
    assert (board.cache.root / "timing-10.3.0-8.7.cache").read_bytes() == b"timings"
    assert tensorrt.build(board.model, part("int8"), board.cache, workspace_mib=300) == (path, False)
    engine = tensorrt.load(board.model, part("int8"), cache=board.cache)
    out = engine({"t": np.array([737])})
    assert out["y"].dtype == np.float32 and out["y"].shape == (2,) and len(sdk.library.memory) == 2
    engine.close()
    assert not sdk.library.memory
    board.has()
    tensorrt.build(board.model, part("int8"), board.cache, workspace_mib=300, again=True)
    assert ("create_timing_cache", [b"timings"]) in sys.modules["tensorrt"].calls


def test_of_tensorrt_8_the_batch_is_explicit_and_int64_is_narrowed(board: Board) -> None:
    sdk = board.has("8.5.2", narrow=True)
    tensorrt.build(board.model, part(), board.cache, workspace_mib=300)
    assert ("create_network", 1) in sdk.calls
    engine = tensorrt.load(board.model, part(), cache=board.cache)
    assert engine({"t": np.array([737])})["y"].shape == (2,)
    with pytest.raises(UserError, match=r"input 't' is int32 \[1\] in the graph, float32"):
        tensorrt.load(board.model, part(dtype="float32"), cache=board.cache)


def test_an_engine_of_another_version_or_gpu_is_not_taken(board: Board) -> None:
    board.has("10.3.0")
    tensorrt.build(board.model, part(), board.cache, workspace_mib=300)
    for version, capability in (("10.7.0", "8.7"), ("10.3.0", "7.2")):
        board.has(version, capability)
        with pytest.raises(UserError, match="there is one for TensorRT 10.3.0 and compute capability 8.7") as caught:
            tensorrt.load(board.model, part(), cache=board.cache)
        assert caught.value.exit_code == 4 and "edgefusion.build" in str(caught.value)
    plan = board.model.with_name("unet.plan")
    plan.write_bytes(b"engine of 10.1.0")
    with pytest.raises(UserError, match="does not take this engine"):
        tensorrt.take(plan, board.model, part(), board.cache)
    plan.write_bytes(b"engine of 10.3.0")
    tensorrt.take(plan, board.model, part(), board.cache)
    tensorrt.load(board.model, part(), cache=board.cache)


@pytest.mark.parametrize(
    ("refusal", "said", "code"),
    [
        ("parse", r"parser refuses the graph: In node 3 \(importFoo\)", 3),
        ("build", "memory was too little", 4),
        ("memory", "cudaMalloc failed: out of memory", 4),
        ("execute", "could not run the engine", 4),
    ],
)
def test_refusals_are_told_and_leave_nothing_half_built(board: Board, refusal: str, said: str, code: int) -> None:
    board.has(**{refusal: True})
    with pytest.raises(UserError, match=said) as caught:
        tensorrt.build(board.model, part(), board.cache, workspace_mib=300)
        tensorrt.load(board.model, part(), cache=board.cache)({"t": np.array([1])})
    assert caught.value.exit_code == code
    left = [path.name for path in board.cache.root.glob("*")] if board.cache.root.exists() else []
    assert bool(left) == (refusal in ("memory", "execute")) and not [name for name in left if name.startswith(".")]


def test_a_profile_joins_times_and_facts(board: Board) -> None:
    board.has()
    tensorrt.build(board.model, part(), board.cache, workspace_mib=300)
    rows = counted(tensorrt.trace(board.model, part(), cache=board.cache), {"t": np.array([1])}, runs=3)
    assert [(row.name, row.module, row.time_ms) for row in rows] == [
        ("conv", "conv_in", 0.5),
        ("Reformatting CopyNode", "", 0.25),
    ]


def test_old_or_absent_sdks_have_remedies(board: Board) -> None:
    board.has("8.2.1")
    with pytest.raises(UserError, match="8.2.1 is too old.*JetPack 5.1.2"):
        tensorrt.sdk()
    board.patch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(UserError, match="--system-site-packages") as caught:
        tensorrt.load(board.model, part())
    assert caught.value.exit_code == 4
    board.patch.setattr(_cuda.ctypes, "CDLL", no_library)
    with pytest.raises(UserError, match="libcudart"):
        _cuda.open_cuda()


def no_library(name: str) -> None:
    raise OSError(name)


def test_the_verb_refuses_what_it_cannot_build(tiny: Path) -> None:
    with pytest.raises(UserError, match="has nothing to build: onnxruntime loads its files as they are"):
        build.prepared(tiny)


def bundle_for(tiny: Path) -> Bundle:
    opened = open_bundle(tiny)
    recipe = opened.manifest.recipe.model_copy(update={"backend": "tensorrt", "device": "jetson-orin-nano-8gb"})
    return Bundle(tiny, opened.manifest.model_copy(update={"recipe": recipe, "device": ORIN}), opened.sha256)


def test_a_jetson_bundle_runs_on_what_is_here(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = bundle_for(tiny)
    monkeypatch.setattr(tensorrt, "find_spec", lambda name: None)
    assert own_backend(bundle) == "onnxruntime"
    monkeypatch.setattr(tensorrt, "JETSON", tmp_path)
    assert own_backend(bundle) == "tensorrt", "on a Jetson its absence is told, not passed over"


def test_the_commands_and_the_record(tiny: Path, tmp_path: Path) -> None:
    from edgefusion.runtime.golden import Measure

    bundle = bundle_for(tiny)
    lines = build.commands(bundle, "10.3.0", 1024)
    assert len(lines) == 3 and f"--onnx={tiny}/unet/model.onnx --saveEngine=unet.plan" in lines[1]
    built = build.Built(bundle, recorded(tmp_path), "10.3.0", "8.7", 1024, lines, golden=[Measure("picture", 41.2, 40)])
    record = built.record()
    assert (record.device, record.produced, record.executed[0].engine) == ("jetson-orin-nano-8gb", None, "tensorrt")
    assert record.executed[0].passed and "Jetson Linux 36.4.7" in record.machine
    assert json.loads(json.dumps(built.as_json()))["board"]["power_mode"] == "15W"
