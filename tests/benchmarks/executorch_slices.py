"""Where an ExecuTorch picture's time goes where the runtime does not trace: its modules lowered and timed one by one.

The wheels of executorch have their event tracer off, and a part is one delegate call. So each block of a part is cut
out of the rewritten module, fed what it was fed in a real picture, lowered as the export lowers the part, and run
alone. The record says `"source": "slices"`: their sum is not the part's time (each slice has its own inputs to order
and its own call), and both are in it.

    python tests/benchmarks/executorch_slices.py BUNDLE --weights zoo:emoji --out profiles/this-machine/….profile.json
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.flop_counter import FlopCounterMode

from edgefusion.backends._layer import Layer
from edgefusion.export.executorch.lower import lower, write
from edgefusion.export.graphs import load_graph
from edgefusion.export.legal.every import legalise
from edgefusion.models.layout import read_layout
from edgefusion.models.locate import locate
from edgefusion.profile import record
from edgefusion.profile.measure import Engines, Found, layer_times
from edgefusion.profile.picture import Fed, calls_of
from edgefusion.runtime.parts import engine_of
from edgefusion.runtime.pipeline import Pipeline
from edgefusion.spec.opened import open_bundle
from edgefusion.spec.profile import PartCall

BLOCK = re.compile(r"(^|\.)(resnets|attentions|downsamplers|upsamplers|layers)\.\d+$")
ALONE = re.compile(r"^(decoder\.)?(conv_in|conv_out|conv_norm_out|time_embedding|post_quant_conv)$")


class Slice(torch.nn.Module):
    """A module with the tensors of one of its calls as inputs, in their order; what is no tensor stays as it was."""

    def __init__(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        super().__init__()
        self.module = module
        leaves, self.spec = tree_flatten((args, kwargs))
        tensors = [leaf.detach() for leaf in leaves if isinstance(leaf, torch.Tensor)]
        self.inputs = tuple(tensor.clone(memory_format=torch.contiguous_format) for tensor in tensors)
        self.leaves = [None if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        self.is_tensor = [isinstance(leaf, torch.Tensor) for leaf in leaves]

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """The first tensor of what the module returns."""
        given = iter(tensors)
        leaves = [next(given) if tensor else leaf for tensor, leaf in zip(self.is_tensor, self.leaves, strict=True)]
        args, kwargs = tree_unflatten(leaves, self.spec)
        made = self.module(*args, **kwargs)
        return next(leaf for leaf in tree_flatten(made)[0] if isinstance(leaf, torch.Tensor))


def slices(graph: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> dict[str, Slice]:
    """Module → its slice, of the blocks of a part that a call goes through."""
    found: dict[str, Slice] = {}
    hooks = []
    for name, module in chosen(graph):

        def seen(module: torch.nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
            found.setdefault(name, Slice(module, args, kwargs))

        hooks.append(module.register_forward_pre_hook(seen, with_kwargs=True))
    with torch.no_grad():
        graph(*inputs)
    for hook in hooks:
        hook.remove()
    return found


def chosen(graph: Any) -> Iterator[tuple[str, torch.nn.Module]]:
    """Blocks, and what stands alone; never one inside another."""
    taken: list[str] = []
    for name, module in graph.model.named_modules():
        inside = any(name.startswith(f"{other}.") for other in taken)
        if not inside and (BLOCK.search(name) or ALONE.search(name)):
            taken.append(name)
            yield name, module


class Lowered:
    """Slices as programs, each lowered once: the steps of a picture have the same."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._made = folder, {}

    def of(self, part: str, name: str, cut: Slice) -> tuple[Any, Any]:
        """A loaded method, and what its delegate took."""
        from executorch.runtime import Runtime

        if (part, name) not in self._made:
            program, left = lower(cut, cut.inputs)
            (path,) = write(program, self._folder / f"{part}-{name}.pte")
            self._made[part, name] = (Runtime.get().load_program(path).load_method("forward"), left)
        return self._made[part, name]


def timed(cut: Slice, name: str, runs: int, method: Any, left: Any) -> Layer:
    """One slice, run by itself."""
    times_ms = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        made = method.execute(list(cut.inputs))
        times_ms.append((time.perf_counter() - start) * 1000)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        expected = cut(*cut.inputs)
    if not torch.allclose(made[0], expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max())):
        raise SystemExit(f"{name}: the slice computes something else than the module")
    return Layer(
        name=name,
        sources=(f"{name}/",),
        kind=type(cut.module).__name__,
        kernel=f"{left.subgraphs} delegated, {len(left.outside)} outside",
        times_ms=tuple(times_ms[1:]),
        computes="fp32",
        macs=counter.get_total_flops() // 2,
        bytes_in=sum(tensor.nbytes for tensor in cut.inputs),
        bytes_out=made[0].nbytes,
        bytes_weights=sum(weight.nbytes for weight in cut.module.parameters()),
    )


def part_call(fed: Fed, bundle: Any, graph: Any, engines: Engines, runs: int, lowered: Lowered) -> PartCall:
    """A call of a part: its whole time in the bundle's program, and its slices. The text encoder is one: it is run once
    a prompt."""
    part = bundle.manifest.parts[fed.part]
    engine = engine_of(engines.backend).load(bundle.path(part.file), part, threads=engines.threads)
    walls_ms = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        engine(fed.feeds)
        walls_ms.append(round((time.perf_counter() - start) * 1000, 3))
    if graph is None:
        whole = Layer("the part", (), "part", "executorch", tuple(walls_ms[1:]))
        return PartCall(part=fed.part, step=fed.step, walls_ms=tuple(walls_ms[1:]), layers=(layer_times(whole),))
    inputs = tuple(torch.from_numpy(fed.feeds[tensor.name]) for tensor in part.inputs)
    rows = []
    for name, cut in slices(graph, inputs).items():
        rows.append(timed(cut, name, runs, *lowered.of(fed.part, name, cut)))
        print(f"{fed.part} {name}: {rows[-1].time_ms:.3f} ms", file=sys.stderr, flush=True)
    return PartCall(
        part=fed.part, step=fed.step, walls_ms=tuple(walls_ms[1:]), layers=tuple(layer_times(row) for row in rows)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="of the target android, float32")
    parser.add_argument("--weights", required=True, help="what it was exported from")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--note")
    parser.add_argument("--out", type=Path, required=True)
    words = parser.parse_args()
    bundle, layout = open_bundle(words.bundle), read_layout(locate(words.weights), "auto")
    engines = Engines("executorch", threads=words.threads)
    with Pipeline(bundle, backend="executorch", low_memory=True, threads=words.threads) as pipeline:
        settings = pipeline.settings()
        fed = calls_of(pipeline, "a red apple", settings)
    graphs: dict[str, Any] = {name: legalise(load_graph(layout, name)) for name in ("unet", "decoder")}
    with tempfile.TemporaryDirectory() as folder:
        lowered = Lowered(Path(folder))
        calls = [part_call(call, bundle, graphs.get(call.part), engines, words.runs, lowered) for call in fed]
    told = record.Circumstances("this-machine", settings.steps, words.runs, words.note)
    record.write(record.recorded(bundle, Found(tuple(calls), "slices"), engines, told), words.out)
    print(words.out)


if __name__ == "__main__":
    main()
