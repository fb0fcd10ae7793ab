"""A lineage for people: a tree in the terminal, a picture in a file."""

from __future__ import annotations

from rich.text import Text
from rich.tree import Tree

from cli.graph import new_graph
from model_store.lineage import Graph

# Of the boxes, by kind; light enough for black text.
COLOURS = {"data": "#e3f2e1", "stage": "#f7efdc", "model": "#e1ecf7", "deployment": "#f3e3f2"}
STYLES = {"data": "green", "stage": "yellow", "model": "bold blue", "deployment": "magenta"}


def as_tree(graph: Graph) -> Tree:
    """The graph from its roots down; what came of two is shown in full below the first."""
    tree = Tree("", hide_root=True)
    shown: set[str] = set()

    def grow(parent: Tree, node: str) -> None:
        text = Text(graph.nodes[node].label, style=STYLES[graph.nodes[node].kind])
        if node in shown and graph.after(node):
            parent.add(text.append(" (see above)"))
            return
        shown.add(node)
        branch = parent.add(text)
        for after in graph.after(node):
            grow(branch, after)

    for root in graph.roots():
        grow(tree, root)
    return tree


def as_svg(graph: Graph) -> str:
    """The graph as SVG."""
    picture = new_graph()
    for node in graph.nodes.values():
        picture.add_node(
            node.id, label=node.label, fillcolor=COLOURS[node.kind], tooltip=node.id
        )
    for start, end in graph.arrows:
        picture.add_edge(start, end)
    return picture.draw(format="svg", prog="dot").decode()
