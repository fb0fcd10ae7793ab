from __future__ import annotations

from model_store.channels import Move
from model_store.lineage import graph_of

TRAINED, FEDERATED, FAST = (f"sha256:{digit * 64}" for digit in "123")
DATA = {"fingerprint": "f00dbabe" * 8, "address": "synthetic"}
LINEAGES = {
    TRAINED: {
        "made_by": "train",
        "data": DATA,
        "stages": [{"stage": "pretrain", "epochs": 2}, {"stage": "fine-tune", "epochs": 20}],
    },
    FEDERATED: {
        "made_by": "federate",
        "parent": TRAINED,
        "data": DATA,
        "stages": [{"stage": "federate", "rounds": 4, "sites": ["berlin", "lyon"]}],
    },
    FAST: {"made_by": "accelerate", "parent": FEDERATED, "data": DATA},
}


def test_from_data_to_deployment_one_thing_comes_of_another() -> None:
    moves = [Move(TRAINED, at="t1"), Move(FAST, at="t2")]
    graph = graph_of(LINEAGES, {"production": moves, "staging": []})
    path, labels = graph.roots(), []
    while path:
        node = path.pop()
        labels.append(graph.nodes[node].label)
        path += [end for end in graph.after(node) if "since t1" not in graph.nodes[end].label]
    assert labels == [
        "data f00dbabef00d of synthetic",
        "pretrain: epochs 2",
        "fine-tune: epochs 20",
        "model 111111111111",
        "federate: rounds 4, sites berlin, lyon",
        "model 222222222222",
        "made by accelerate",
        "model 333333333333",
        "production since t2 (now)",
    ]
    assert "production since t1" in {node.label for node in graph.nodes.values()}


def test_the_part_about_a_model_leaves_its_siblings_out() -> None:
    sibling = "sha256:" + "4" * 64
    graph = graph_of(LINEAGES | {sibling: {"parent": TRAINED}}, {})
    about = graph.about(FEDERATED)
    assert {TRAINED, FEDERATED, FAST} <= about.nodes.keys()
    assert not any(sibling in node for node in about.nodes)
    assert sibling in graph.about(TRAINED).nodes


def test_a_parent_that_is_gone_is_told_and_other_data_too() -> None:
    gone, data = "sha256:" + "9" * 64, {"address": "s3://bucket/events"}
    graph = graph_of({FAST: {"parent": gone, "data": data, "made_by": "submit"}}, {})
    assert {graph.nodes[root].label for root in graph.roots()} == {
        "model 999999999999, no longer stored",
        "data without a hash of s3://bucket/events",
    }
    assert len(graph.arrows) == 3


def test_a_model_that_says_nothing_still_has_its_box() -> None:
    assert graph_of({FAST: {}}, {}).nodes[FAST].label == "model 333333333333"
