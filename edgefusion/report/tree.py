"""The module tree of a profile, with what each node takes: part › up_blocks.2 › attentions.0 › …"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from edgefusion.report import sums
from edgefusion.report.kinds import CLASSES, class_of
from edgefusion.spec.profile import LayerTimes, Profile

ITSELF = "(itself)"


@dataclass
class Node:
    """Times are sums of the layers' medians, ms, all steps together. `gmac`: of the layers that tell.

    `classes`: class of operator → ms.
    """

    name: str
    ms: float = 0.0
    layers: int = 0
    gmac: float = 0.0
    classes: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    children: dict[str, Node] = field(default_factory=dict)

    def add(self, layer: LayerTimes, ms: float) -> None:
        """Count a layer in."""
        self.ms += ms
        self.layers += 1
        self.gmac += (layer.macs or 0) / 1e9
        self.classes[class_of(layer)] += ms

    def child(self, name: str) -> Node:
        """The child of that name, made where there is none."""
        return self.children.setdefault(name, Node(name))

    @property
    def colour(self) -> int:
        """The index in `CLASSES` of what takes most; -1 of time that no layer accounts for."""
        return CLASSES.index(max(self.classes, key=self.classes.__getitem__)) if self.classes else -1

    def as_json(self) -> list[Any]:
        """[name, ms, layers, GMAC, colour, {class: ms}, children]: short, for it stands in every page."""
        classes = {str(CLASSES.index(name)): round(ms, 4) for name, ms in self.classes.items()}
        facts = [self.name, round(self.ms, 4), self.layers, round(self.gmac, 4), self.colour, classes]
        return [*facts, [child.as_json() for child in self.children.values()]]


def tree(profile: Profile) -> Node:
    """The root, `picture`; its children are the parts, in the order they ran."""
    root = Node("picture")
    for part, layer in sums.layers(profile):
        ms, node = sums.middle(layer.times_ms), root
        root.add(layer, ms)
        for level in sums.place(part, layer):
            node = node.child(level)
            node.add(layer, ms)
        own = node.children.setdefault(ITSELF, Node(ITSELF))  # dropped below where the node has no other child
        own.add(layer, ms)
    _without_lone_itself(root)
    for call in profile.calls:
        rest = sums.left_over(call)
        for node in (root, root.child(call.part), root.child(call.part).child(sums.LEFT_OVER)):
            node.ms += rest
    return root


def _without_lone_itself(node: Node) -> None:
    if list(node.children) == [ITSELF]:
        node.children.clear()
    for child in node.children.values():
        _without_lone_itself(child)
