"""A typed node behind the NodeDef face."""

import asyncio
import threading

import pytest
from comfyk import io, ui
from comfyk.nodes.typed import TypedNodeDef


def node(schema, **methods):
    body = {"define_schema": classmethod(lambda cls: schema), "execute": classmethod(lambda cls, **k: k)}
    body |= {name: classmethod(method) for name, method in methods.items()}
    return TypedNodeDef(type(schema.node_id, (io.ComfyNode,), body))


def call(definition, method="execute", hidden=None, **values):
    live = definition.live_inputs(values)
    return definition.call(definition.create(), method, values, live, hidden or {})


def test_attributes():
    definition = node(
        io.Schema(
            "N",
            outputs=[io.Image.Output(), io.Int.Output(is_output_list=True)],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            not_idempotent=True,
        )
    )
    assert (definition.name, definition.display_name, definition.python_module) == ("N", "N", "nodes")
    assert (definition.output_types, definition.output_is_list) == (("IMAGE", "INT"), (False, True))
    assert definition.is_output and definition.not_idempotent and definition.wants_unique_id
    assert not definition.is_async and definition.is_static
    assert definition.live_inputs({}).hidden == {
        "unique_id": "UNIQUE_ID",
        "prompt": "PROMPT",
        "extra_pnginfo": "EXTRA_PNGINFO",
    }


def test_live_combo_is_read_anew_without_a_new_schema():
    files = ["a"]
    definition = node(io.Schema("N", inputs=[io.Combo.Input("f", lambda: files), io.Image.Input("i")]))
    assert definition.live_inputs({}).specs["f"].choices == ["a"]
    files.append("b")
    assert definition.live_inputs({}).specs["f"].choices == ["a", "b"]
    assert not definition.is_static


def test_choices_of_a_dynamic_combo():
    combo = io.DynamicCombo.Input("size", (io.DynamicCombo.Option("w", [io.Int.Input("w")]),))
    definition = node(io.Schema("N", inputs=[combo]))
    assert definition.live_inputs({}).specs["size"].choices == ["w"]
    assert definition.live_inputs({}).specs["size"].required
    assert call(definition, size="w", **{"size.w": 3}) == {"size": {"size": "w", "w": 3}}


def test_validate_gets_only_what_it_takes():
    combo = io.DynamicCombo.Input("size", (io.DynamicCombo.Option("w", [io.Int.Input("w")]),))
    definition = node(
        io.Schema("N", inputs=[io.Int.Input("a"), io.Int.Input("b"), combo]),
        validate_inputs=lambda cls, a: a > 1 or "too small",
    )
    assert definition.has("validate")
    assert definition.validated_names() == (frozenset({"a"}), False)
    values = {"a": 1, "b": 2, "size": "w", "size.w": 3}
    assert call(definition, "validate", **values) == "too small"


def test_methods_that_are_not_there():
    definition = node(io.Schema("N", inputs=[io.Int.Input("a")]))
    for method in ("check_lazy_status", "fingerprint", "validate"):
        assert not definition.has(method)
    assert definition.has("execute")


def test_lazy_inputs_are_needed_unless_the_node_says_otherwise():
    inputs = [io.Image.Input("a", lazy=True), io.Image.Input("b", lazy=True)]
    plain = node(io.Schema("N", inputs=inputs))
    assert plain.has("check_lazy_status")
    assert call(plain, "check_lazy_status", a=None, b=1) == ["a"]
    lists = node(io.Schema("L", inputs=inputs, is_input_list=True))
    assert call(lists, "check_lazy_status", a=[None], b=[1]) == ["a"]
    picky = node(io.Schema("P", inputs=inputs), check_lazy_status=lambda cls, a, b: ["b"])
    assert call(picky, "check_lazy_status", a=None, b=None) == ["b"]


def test_fingerprint():
    definition = node(io.Schema("N", inputs=[io.Int.Input("a")]), fingerprint_inputs=lambda cls, a: a * 2)
    assert call(definition, "fingerprint", a=4) == 8


async def test_hidden_of_concurrent_calls_do_not_mix():
    seen = []

    async def execute(cls, n):
        await asyncio.sleep(0)
        thread = threading.Thread(target=lambda: seen.append((n, cls.hidden.unique_id, cls.hidden.prompt)))
        thread.start()
        thread.join()
        return (cls.hidden.unique_id,)

    schema = io.Schema("N", inputs=[io.Int.Input("n")], hidden=[io.Hidden.unique_id])
    definition = node(schema, execute=execute)
    assert definition.is_async
    hidden = [{"UNIQUE_ID": str(n), "PROMPT": {}} for n in range(5)]
    results = await asyncio.gather(*(call(definition, hidden=hidden[n], n=n) for n in range(5)))
    assert results == [(str(n),) for n in range(5)]
    assert sorted(seen) == [(n, str(n), None) for n in range(5)]
    assert definition.cls.hidden.unique_id is None


def test_super_works_in_a_call_with_hidden():
    class Parent(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema("Parent", hidden=[io.Hidden.unique_id])

        @classmethod
        def execute(cls):
            return cls.hidden.unique_id

    class Child(Parent):
        @classmethod
        def execute(cls):
            return ("child", super().execute(), cls.__name__, cls.RETURN_TYPES)

    assert call(TypedNodeDef(Child), hidden={"UNIQUE_ID": "9"}) == ("child", "9", "Child", ())


def test_results():
    definition = node(io.Schema("N", outputs=[io.Int.Output()], enable_expand=True))
    assert definition.result((1,)).values == (1,)
    shown = definition.result(io.NodeOutput(1, ui=ui.PreviewText("hi")))
    assert (shown.values, shown.ui) == ((1,), {"text": ["hi"]})
    blocked = definition.result(io.NodeOutput(block_execution="no"))
    assert (blocked.blocked, blocked.block, blocked.values) == (True, "no", None)
    assert definition.result(io.ExecutionBlocker(None)).blocked
    assert definition.result(io.NodeOutput(expand={"1": {}})).expand == {"1": {}}
    assert definition.result(None).values is None
    with pytest.raises(TypeError, match="N"):
        definition.result("text")


def test_expansion_needs_the_schema_to_say_so():
    definition = node(io.Schema("N"))
    with pytest.raises(TypeError, match="enable_expand"):
        definition.result(io.NodeOutput(expand={}))
