"""An environment as a picture: layers, their resources, and what needs what."""

from __future__ import annotations

from collections.abc import Sequence

import pygraphviz

from infra.resources import Declared

# One colour a layer, light enough for black text.
COLOURS = {"private": "#e3f2e1", "cloud": "#e1ecf7", "link": "#f7efdc", "platform": "#f3e3f2"}


def new_graph() -> pygraphviz.AGraph:
    """An empty picture whose nodes are boxes and whose arrows go from left to right."""
    graph = pygraphviz.AGraph(directed=True, rankdir="LR", ranksep="1.2", nodesep="0.15")
    box = {"shape": "box", "style": "rounded,filled", "fontsize": "10", "fontname": "sans-serif"}
    graph.node_attr.update(box)
    return graph


def draw(resources: Sequence[Declared]) -> str:
    """SVG of the resources that providers make; an arrow leads to whatever needs the other."""
    graph = new_graph()
    shown = {resource.urn: resource for resource in resources if resource.custom}
    layers: dict[str, list[str]] = {}
    for urn, resource in shown.items():
        kind = resource.type.rpartition(":")[2]
        colour = COLOURS.get(resource.layer, "#eeeeee")
        graph.add_node(urn, label=f"{kind}\n{resource.name}", fillcolor=colour, tooltip=urn)
        layers.setdefault(resource.layer, []).append(urn)
    for layer, urns in layers.items():
        graph.add_subgraph(urns, name=f"cluster_{layer}", label=layer, color="#999999")
    for urn, resource in shown.items():
        needed = frozenset().union(*resource.sources.values()) & shown.keys() - {urn}
        for other in sorted(needed):
            graph.add_edge(other, urn)
    return graph.draw(format="svg", prog="dot").decode()
