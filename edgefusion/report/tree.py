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

    `classes`: class of operator → ms. `moment`: sum of ms × place in the order of the run.
    """

    name: str
    ms: float = 0.0
    layers: int = 0
    gmac: float = 0.0
    classes: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    children: dict[str, Node] = field(default_factory=dict)
    moment: float = 0.0

    def add(self, layer: LayerTimes, ms: float, place: int) -> None:
        """Count a layer in, the `place`-th of the run."""
        self.ms += ms
        self.moment += ms * place
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
    """The root, `picture`. Children stand in the order in which most of them ran: an engine may start a late module's
    first layer early."""
    root = Node("picture")
    for place, (part, layer) in enumerate(sums.layers(profile)):
        ms, node = sums.middle(layer.times_ms), root
        root.add(layer, ms, place)
        for level in sums.place(part, layer):
            node = node.child(level)
            node.add(layer, ms, place)
        node.child(ITSELF).add(layer, ms, place)  # dropped below where the node has no other child
    _settle(root)
    for call in profile.calls:
        rest = sums.left_over(call)
        for node in (root, root.child(call.part), root.child(call.part).child(sums.LEFT_OVER)):
            node.ms += rest
    return root


def _settle(node: Node) -> None:
    """Order the children; a node that is nothing but itself needs no child to say so."""
    if list(node.children) == [ITSELF]:
        node.children.clear()
    node.children = dict(sorted(node.children.items(), key=lambda row: row[1].moment / (row[1].ms or 1.0)))
    for child in node.children.values():
        _settle(child)
