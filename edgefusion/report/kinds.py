"""Classes of operators: engines call one operation by many names, a page has room and colours for seven."""

from __future__ import annotations

import re

from edgefusion.spec.profile import LayerTimes

CLASSES = ("convolution", "linear", "attention", "normalisation", "elementwise", "data movement", "other")
_ATTENTION_MODULE = re.compile(r"(^|\.)(attn\d*|self_attn|attentions\.\d+)$")
_PRODUCT = re.compile(r"matmul|gemm|subgraph|fullyconnected|bmm")
_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = (  # the first that is found counts, so order matters
    ("attention", re.compile(r"attention|mha|sdpa|softmax")),
    ("convolution", re.compile(r"conv(?!ert)")),
    ("linear", re.compile(r"matmul|gemm|fullyconnected|fully_connected|(?<!quantize)linear|addmm|bmm")),
    ("normalisation", re.compile(r"norm|mvn|rms")),
    (
        "data movement",
        re.compile(
            r"reorder|transpose|reshape|concat|split|slice|gather|quanti[sz]e|convert|cast|copy|permute|pad|expand|squeeze"
            r"|memcpy|broadcast|tile|view|flatten|strided|resize|interpolate|upsample|embedding|cat\b"
        ),
    ),
    (
        "elementwise",
        re.compile(
            r"add|mul|sub|div|eltwise|elementwise|element_wise|silu|swish|gelu|sigmoid|tanh|relu|erf|exp|pow|sqrt|sin"
            r"|cos|math|clip|clamp|sum|reduce|mean|where|neg|pointwise|unary|binary"
        ),
    ),
)


def class_of(layer: LayerTimes) -> str:
    """One of `CLASSES`, by the engine's kind; a product without a layer of its own inside attention is attention's."""
    kind = layer.kind.lower()
    if _PRODUCT.search(kind) and _ATTENTION_MODULE.search(home(layer)):
        return "attention"
    return next((name for name, pattern in _PATTERNS if pattern.search(kind)), "other")


def home(layer: LayerTimes) -> str:
    """The module a layer's time stands at: the first that was fused into it, "" for the part or where none is told."""
    return layer.modules[0] if layer.modules else ""


def levels(module: str) -> tuple[str, ...]:
    """`up_blocks.2.attentions.0.attn1` as a person reads it: ("up_blocks.2", "attentions.0", "attn1").

    A number belongs to the list before it.
    """
    found: list[str] = []
    for word in module.split(".") if module else ():
        if word.isdigit() and found:
            found[-1] += f".{word}"
        else:
            found.append(word)
    return tuple(found)
