"""Workflows of the web UI as prompts. The expected prompts are what the UI (1.58) makes of the same files."""

from __future__ import annotations

import re
from typing import Any

import pytest
from comfyk.workflows import WorkflowError, is_bare_prompt, is_ui_workflow, to_prompt

MODES = {
    "options": [
        {"key": "plain", "inputs": {"required": {}}},
        {"key": "fine", "inputs": {"required": {"strength": ["FLOAT", {"default": 0.5}]}}},
    ]
}
SCHEMAS: dict[str, Any] = {
    "Load": {"required": {"name": [["a.safetensors", "b.safetensors"], {}]}},
    "Encode": {"required": {"model": ["MODEL"], "text": ["STRING", {"multiline": True, "dynamicPrompts": True}]}},
    "Sample": {
        "required": {
            "model": ["MODEL"],
            "seed": ["INT", {"default": 0, "control_after_generate": True}],
            "steps": ["INT", {"default": 20}],
            "cfg": ["FLOAT", {"default": 8.0}],
        },
        "optional": {"note": ["STRING", {"default": "none"}]},
    },
    "Picture": {"required": {"image": [["x.png"], {"image_upload": True}], "upload": ["IMAGEUPLOAD", {}]}},
    "Modal": {"required": {"mode": ["COMFY_DYNAMICCOMBO_V3", MODES], "last": ["INT", {"default": 1}]}},
    "Forced": {"required": {"text": ["STRING", {"forceInput": True}], "count": ["INT", {"default": 3}]}},
    "Curve": {"required": {"points": ["CURVE", {}]}},
    "Save": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {"default": "ComfyUI"}]}},
}  # fmt: skip


def node(
    id: int, type: str, values: Any = (), inputs: Any = (), outputs: Any = (), **more: Any
) -> dict[str, Any]:
    return {
        "id": id,
        "type": type,
        "mode": 0,
        "widgets_values": values if isinstance(values, dict) else list(values),
        "inputs": [
            {"name": name, "type": kind, "link": link} | ({"widget": {"name": name}} if widget else {})
            for name, kind, link, *widget in inputs
        ],
        "outputs": [{"name": kind, "type": kind} for kind in outputs],
    } | more


def workflow(nodes: list[Any], links: list[Any] = (), **more: Any) -> dict[str, Any]:  # type: ignore[assignment]
    return {"version": 0.4, "nodes": nodes, "links": list(links)} | more


def inputs(flow: dict[str, Any]) -> dict[str, Any]:
    return {id: entry["inputs"] for id, entry in to_prompt(flow, SCHEMAS.get).items()}


def one(type: str, values: Any, **more: Any) -> dict[str, Any]:
    return inputs(workflow([node(1, type, values, **more)]))["1"]


def test_values_go_to_the_widgets_of_the_schema() -> None:
    found = one("Sample", [5, "randomize", 12, 2.5, "x"])
    assert found == {"seed": 5, "steps": 12, "cfg": 2.5, "note": "x"}


def test_what_was_not_saved_has_its_default_and_a_combo_of_none_its_first() -> None:
    assert one("Sample", [5, "fixed"]) == {"seed": 5, "steps": 20, "cfg": 8.0, "note": "none"}
    assert one("Load", [None]) == {"name": "a.safetensors"}
    assert one("Load", ["gone.safetensors"]) == {"name": "gone.safetensors"}


def test_the_button_of_an_upload_is_no_input() -> None:
    assert one("Picture", ["x.png", "image"]) == {"image": "x.png"}


def test_values_by_name() -> None:
    assert one("Sample", {"cfg": 3, "seed": 9, "videopreview": {}}) == {
        "seed": 9, "steps": 20, "cfg": 3, "note": "none",
    }  # fmt: skip
    more = {"widgets_values_named": {"seed": 1, "steps": 2, "cfg": 3, "note": "n"}}
    assert one("Sample", [1, 2, 3, "n"], **more) == {"seed": 1, "steps": 2, "cfg": 3, "note": "n"}


def test_the_chosen_option_of_a_dynamic_combo_brings_its_own() -> None:
    assert one("Modal", ["plain", 7]) == {"mode": "plain", "last": 7}
    assert one("Modal", ["fine", 0.25, 7]) == {"mode": "fine", "mode.strength": 0.25, "last": 7}


def test_an_old_value_of_an_input_that_is_only_a_link_now_is_passed_over() -> None:
    assert one("Forced", ["old", 4]) == {"count": 4}
    assert one("Forced", [4]) == {"count": 4}


def test_a_list_is_wrapped_for_it_is_no_link() -> None:
    assert one("Curve", [[[0, 0], [1, 1]]]) == {"points": {"__value__": [[0, 0], [1, 1]]}}
    assert one("Curve", [["1", 0]]) == {"points": {"__value__": ["1", 0]}}


def test_comments_and_choices_of_a_prompt() -> None:
    assert one("Encode", ["a {red} cat // not this\nin \\{braces\\} /* or\nthat */end"])["text"] == (
        "a red cat \nin {braces} end"
    )
    assert one("Encode", ["{a|{b|c}} x"])["text"] in ("a x", "b x", "c x")


def test_a_file_name_is_filled_in() -> None:
    flow = workflow(
        [
            node(1, "Sample", [42, "fixed"], properties={"Node name for S&R": "Main"}),
            node(2, "Save", ["%date:yyyy-MM-dd%/%Main.seed%_%year%_%Main.none%"]),
        ]
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\d/42_%year%_%Main.none%", inputs(flow)["2"]["filename_prefix"])


def chain(middle: list[Any], links: list[Any], **more: Any) -> dict[str, Any]:
    """A Load, an Encode behind whatever `middle` is, and its links (the first leaves Load, link 9 enters Encode)."""
    nodes = [
        node(1, "Load", ["b.safetensors"], outputs=["MODEL"]),
        *middle,
        node(2, "Encode", ["text"], [("model", "MODEL", 9)], ["CONDITIONING"]),
    ]
    return workflow(nodes, links, **more)


@pytest.mark.parametrize("as_objects", [False, True])
def test_links_in_both_forms(as_objects: bool) -> None:
    link: Any = [9, 1, 0, 2, 0, "MODEL"]
    if as_objects:
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        link = dict(zip(keys, link, strict=True))
    assert inputs(chain([], [link])) == {
        "1": {"name": "b.safetensors"},
        "2": {"text": "text", "model": ["1", 0]},
    }


def test_reroutes_are_passed_through_and_notes_left_out() -> None:
    middle = [
        node(3, "Reroute", [], [("", "*", 1)], ["MODEL"]), node(4, "Reroute", [], [("", "*", 2)], ["MODEL"]),
        node(5, "Note", ["read this"]), node(6, "MarkdownNote", ["# this"]), node(7, "Label (some pack)", ["x"]),
    ]  # fmt: skip
    links = [[1, 1, 0, 3, 0, "*"], [2, 3, 0, 4, 0, "*"], [9, 4, 0, 2, 0, "MODEL"]]
    assert inputs(chain(middle, links))["2"]["model"] == ["1", 0]
    assert list(inputs(chain(middle, links))) == ["1", "2"]


def test_a_long_chain_of_reroutes_and_one_in_a_circle() -> None:
    count = 5000
    middle = [node(10 + i, "Reroute", [], [("", "*", 100 + i)], ["MODEL"]) for i in range(count)]
    links = [[100 + i, 9 + i if i else 1, 0, 10 + i, 0, "*"] for i in range(count)]
    assert inputs(chain(middle, [*links, [9, 9 + count, 0, 2, 0, "*"]]))["2"]["model"] == ["1", 0]
    links[0] = [100, 9 + count, 0, 10, 0, "*"]
    with pytest.raises(WorkflowError, match="from itself"):
        inputs(chain(middle, [*links, [9, 9 + count, 0, 2, 0, "*"]]))


def test_a_bypassed_node_hands_on_what_fits_and_a_muted_one_nothing() -> None:
    middle = [
        node(3, "Encode", ["t"], [("text", "STRING", None), ("model", "MODEL", 1)], ["MODEL"], mode=4),
    ]
    links = [[1, 1, 0, 3, 1, "MODEL"], [9, 3, 0, 2, 0, "MODEL"]]
    assert inputs(chain(middle, links)) == {
        "1": {"name": "b.safetensors"},
        "2": {"text": "text", "model": ["1", 0]},
    }
    middle[0]["mode"] = 2
    assert inputs(chain(middle, links))["2"] == {"text": "text"}


def test_a_primitive_sets_the_widget_that_it_is_connected_to() -> None:
    flow = workflow(
        [
            node(1, "PrimitiveNode", [77, "fixed"], outputs=["INT"]),
            node(3, "Reroute", [], [("", "*", 2)], ["INT"]),
            node(2, "Sample", [5, "fixed"], [("model", "MODEL", None), ("seed", "INT", 1, True)]),
        ],
        [[2, 1, 0, 3, 0, "INT"], [1, 3, 0, 2, 1, "INT"]],
    )
    assert inputs(flow) == {"2": {"seed": 77, "steps": 20, "cfg": 8.0, "note": "none"}}


def subgraph(id: str, nodes: list[Any], links: list[Any], ins: list[Any], outs: list[Any]) -> dict[str, Any]:
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    slots = [[{"name": name, "type": kind} for name, kind in some] for some in (ins, outs)]
    listed = [dict(zip(keys, link, strict=True)) for link in links]
    return {
        "id": id, "name": id, "nodes": nodes, "links": listed, "inputs": slots[0], "outputs": slots[1],
        "inputNode": {"id": -10}, "outputNode": {"id": -20},
    }  # fmt: skip


def nested(outer_values: list[Any] = (), inner_values: list[Any] = (), **more: Any) -> dict[str, Any]:  # type: ignore[assignment]
    """A Load, and an Encode in a subgraph in a subgraph, with its text promoted twice, and a Sample behind."""
    slots = [("model", "MODEL"), ("text", "STRING")]
    inner = subgraph(
        "inner",
        [node(5, "Encode", ["own"], [("model", "MODEL", 1), ("text", "STRING", 2, True)], ["CONDITIONING"])],
        [[1, -10, 0, 5, 0], [2, -10, 1, 5, 1], [3, 5, 0, -20, 0]], slots, [("out", "CONDITIONING")],
    )  # fmt: skip
    outer = subgraph(
        "outer",
        [node(4, "inner", inner_values, [("model", "MODEL", 1), ("text", "STRING", 2, True)], ["CONDITIONING"])],
        [[1, -10, 0, 4, 0], [2, -10, 1, 4, 1], [3, 4, 0, -20, 0]], slots, [("out", "CONDITIONING")],
    )  # fmt: skip
    host = node(
        3, "outer", outer_values, [("model", "MODEL", 1), ("text", "STRING", None, True)], ["CONDITIONING"]
    )
    nodes = [
        node(1, "Load", ["b.safetensors"], outputs=["MODEL"]), host | more,
        node(2, "Sample", [5, "fixed"], [("model", "MODEL", 2)]),
    ]  # fmt: skip
    links = [[1, 1, 0, 3, 0, "MODEL"], [2, 3, 0, 2, 0, "*"]]
    return workflow(nodes, links, definitions={"subgraphs": [outer, inner]})


def test_subgraphs_in_subgraphs() -> None:
    assert inputs(nested()) == {
        "1": {"name": "b.safetensors"},
        "3:4:5": {"text": "own", "model": ["1", 0]},
        "2": {"seed": 5, "steps": 20, "cfg": 8.0, "note": "none", "model": ["3:4:5", 0]},
    }


def test_a_promoted_widget_counts_where_it_is_outermost() -> None:
    assert inputs(nested(inner_values=["middle"]))["3:4:5"]["text"] == "middle"
    assert inputs(nested(["outermost"], ["middle"]))["3:4:5"]["text"] == "outermost"
    named = nested(["a", "b"], widgets_values_named={"text": "by name"})
    assert inputs(named)["3:4:5"]["text"] == "by name"


def test_a_bypassed_subgraph_hands_on_and_a_muted_one_takes_its_nodes_along() -> None:
    flow = nested(mode=4)
    flow["nodes"][1]["outputs"][0]["type"] = "MODEL"
    flow["nodes"][2]["inputs"][0]["type"] = "MODEL"
    assert inputs(flow)["2"]["model"] == ["1", 0]
    assert set(inputs(nested(mode=2))) == {"1", "2"}


def test_a_subgraph_that_leads_straight_through() -> None:
    through = subgraph("through", [], [[1, -10, 0, -20, 0]], [("a", "MODEL")], [("b", "MODEL")])
    middle = [node(3, "through", [], [("a", "MODEL", 1)], ["MODEL"])]
    links = [[1, 1, 0, 3, 0, "MODEL"], [9, 3, 0, 2, 0, "MODEL"]]
    flow = chain(middle, links, definitions={"subgraphs": [through]})
    assert inputs(flow)["2"]["model"] == ["1", 0]


def test_a_subgraph_that_holds_itself_is_refused() -> None:
    itself = subgraph("self", [node(1, "self", [], [], ["MODEL"])], [[1, 1, 0, -20, 0]], [], [("o", "MODEL")])
    flow = chain(
        [node(3, "self", [], [], ["MODEL"])], [[9, 3, 0, 2, 0, "*"]], definitions={"subgraphs": [itself]}
    )
    with pytest.raises(WorkflowError, match="holds itself"):
        inputs(flow)


def test_a_node_that_nobody_knows_stays_for_the_validation_to_name() -> None:
    middle = [node(3, "Unknown", ["v"], [("a", "MODEL", 1), ("w", "STRING", None, True)], ["MODEL"])]
    prompt = to_prompt(chain(middle, [[1, 1, 0, 3, 0, "*"], [9, 3, 0, 2, 0, "*"]]), SCHEMAS.get)
    assert prompt["3"] == {"class_type": "Unknown", "inputs": {"w": "v", "a": ["1", 0]}}


def test_titles_are_kept() -> None:
    flow = workflow([node(1, "Load", ["a.safetensors"], title="My model")])
    assert to_prompt(flow, SCHEMAS.get)["1"]["_meta"] == {"title": "My model"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "no list of nodes"),
        ({"nodes": [3]}, "without an id or a type"),
        ({"nodes": [], "links": [[1, 2]]}, "a link that is none"),
        ({"nodes": [], "definitions": {"subgraphs": [{}]}}, "no id"),
        ({"nodes": [{"id": 1, "type": "workflow>old"}]}, "convert it to a subgraph"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(data: Any, message: str) -> None:
    with pytest.raises(WorkflowError, match=message):
        to_prompt(data, SCHEMAS.get)


def test_what_is_what() -> None:
    assert is_ui_workflow(workflow([])) and not is_bare_prompt(workflow([]))
    assert is_bare_prompt({"1": {"class_type": "A", "inputs": {}}}) and not is_bare_prompt({})
    assert not is_ui_workflow({"1": {"class_type": "A"}}) and not is_ui_workflow([])
