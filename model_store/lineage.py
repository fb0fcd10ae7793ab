"""Where models come from and where they went, as a graph: data → stages → model → … → channel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from model_store.channels import CHANNELS, Move
from model_store.manifest import parents_of
from model_store.store import Store


@dataclass(frozen=True)
class Node:
    """One box: a data set, a step of training, a model, or a channel that points to one."""

    id: str
    kind: Literal["data", "stage", "model", "deployment"]
    label: str


@dataclass
class Graph:
    """Boxes by id, and arrows from what was there first to what came of it."""

    nodes: dict[str, Node] = field(default_factory=dict)
    arrows: list[tuple[str, str]] = field(default_factory=list)

    def after(self, node: str) -> list[str]:
        """What came of a node at once."""
        return [end for start, end in self.arrows if start == node]

    def roots(self) -> list[str]:
        """Nodes that came of nothing."""
        ends = {end for _, end in self.arrows}
        return [node for node in self.nodes if node not in ends]

    def about(self, node: str) -> Graph:
        """The part that a node came of, and that came of it."""
        forth = {start: self.after(start) for start in self.nodes}
        back: dict[str, list[str]] = {end: [] for end in self.nodes}
        for start, end in self.arrows:
            back[end].append(start)
        kept = _reached(node, forth) | _reached(node, back)
        return Graph(
            {name: each for name, each in self.nodes.items() if name in kept},
            [arrow for arrow in self.arrows if kept.issuperset(arrow)],
        )

    def _add(self, node: Node, *before: str) -> str:
        self.nodes.setdefault(node.id, node)
        self.arrows += [(start, node.id) for start in before]
        return node.id


def lineage(store: Store, model: str | None = None) -> Graph:
    """The lineage of all models of a store, or the part about one."""
    lineages = {record.digest: record.lineage for record in reversed(store.list())}
    graph = graph_of(lineages, {channel: store.history(channel) for channel in CHANNELS})
    return graph.about(store.resolve(model)) if model else graph


def graph_of(
    lineages: Mapping[str, Mapping[str, Any]], histories: Mapping[str, Iterable[Move]]
) -> Graph:
    """The graph of models by digest and of channels' moves."""
    graph = Graph()
    for model in lineages:
        graph._add(Node(model, "model", _short(model)))
    for model, lineage in lineages.items():
        before = [
            graph._add(Node(parent, "model", f"{_short(parent)}, no longer stored"))
            for parent in parents_of(lineage)
        ]
        data = lineage.get("data") or {}
        known = {_name(lineages.get(parent, {}).get("data") or {}) for parent in before}
        if data and _name(data) not in known:
            before.append(graph._add(Node(f"data {_name(data)}", "data", _data_label(data))))
        for number, stage in enumerate(_stages(lineage)):
            before = [graph._add(Node(f"{model} {number}", "stage", stage), *before)]
        graph._add(graph.nodes[model], *before)
    for channel, moves in histories.items():
        moves = list(moves)
        for move in {each.model: each for each in moves}.values():
            if move.model in lineages:
                now = " (now)" if move == moves[-1] else ""
                label = f"{channel} since {move.at or 'an unknown time'}{now}"
                graph._add(Node(f"{channel} {move.model}", "deployment", label), move.model)
    return graph


def _stages(lineage: Mapping[str, Any]) -> list[str]:
    """How a model was made of its parent or its data, a text for each step."""
    stages = [dict(stage) for stage in lineage.get("stages") or ()]
    if not stages:
        return [f"made by {lineage.get('made_by', 'an unknown hand')}"]
    texts = []
    for stage in stages:
        name = stage.pop("stage", "step")
        how = ", ".join(
            f"{key} {', '.join(value) if isinstance(value, list) else value}"
            for key, value in stage.items()
        )
        texts.append(f"{name}: {how}" if how else name)
    return texts


def _name(data: Mapping[str, Any]) -> str:
    return str(data.get("fingerprint") or data.get("address", "unknown"))


def _data_label(data: Mapping[str, Any]) -> str:
    print_ = data.get("fingerprint")
    return f"data {print_[:12] if print_ else 'without a hash'} of {data.get('address', '?')}"


def _short(digest: str) -> str:
    return f"model {digest.removeprefix('sha256:')[:12]}"


def _reached(start: str, arrows: Mapping[str, list[str]]) -> set[str]:
    reached, todo = set(), [start]
    while todo:
        node = todo.pop()
        if node not in reached:
            reached.add(node)
            todo += arrows.get(node, [])
    return reached
