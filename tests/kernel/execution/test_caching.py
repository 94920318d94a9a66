"""Which nodes run again, with each kind of cache."""

from __future__ import annotations

import copy
import gc
import math
import weakref
from typing import ClassVar

import pytest
from comfyk.execution.cache import CacheEntry, ClassicCache, LruCache, RamPressureCache, Scope, size_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@pytest.fixture(params=["classic", "lru", "ram"])
async def keeping(kernel, n, request):
    """A kernel for each cache that keeps results."""
    return await kernel(*n.CLASSES, cache=request.param, cache_lru=50)


def chain(n, length=4):
    prompt = {"0": n.node("Num", value=1)}
    for index in range(1, length):
        prompt[str(index)] = n.node("Add", a=[str(index - 1), 0], b=1)
    prompt["show"] = n.node("Show", x=[str(length - 1), 0])
    return prompt


async def test_a_prompt_run_again_runs_nothing_and_shows_the_same(keeping, n):
    first = await keeping.run(chain(n))
    keeping.events.clear()
    second = await keeping.run(chain(n))
    assert keeping.ran() == []
    assert second.outputs == first.outputs
    assert keeping.messages("execution_cached")[0][1]["nodes"] == ["0", "1", "2", "3", "show"]
    assert keeping.messages("executed")[0][1]["output"] == first.outputs["show"]


async def test_equal_nodes_under_other_ids_share_their_results(keeping, n):
    await keeping.run(chain(n))
    keeping.events.clear()
    renamed = {"z" + node: copy.deepcopy(value) for node, value in chain(n).items()}
    for node in renamed.values():
        node["inputs"] = {
            key: ["z" + value[0], value[1]] if isinstance(value, list) else value
            for key, value in node["inputs"].items()
        }
    outcome = await keeping.run(renamed)
    assert keeping.ran() == []
    assert outcome.meta["zshow"]["node_id"] == "zshow"


async def test_nothing_is_kept_with_cache_none_but_each_node_runs_once(kernel, n):
    k = await kernel(*n.CLASSES, cache="none")
    prompt = chain(n) | {
        "again": n.node("Add", a=["1", 0], b=["2", 0]),
        "show2": n.node("Show", x=["again", 0]),
    }
    for _ in range(2):
        k.events.clear()
        outcome = await k.run(prompt)
        assert sorted(k.ran()) == sorted(prompt)
        assert outcome.outputs == {"show": {"text": [4]}, "show2": {"text": [5]}}


async def test_results_are_let_go_once_no_node_needs_them(kernel, n):
    class Thing:
        pass

    class Make:
        INPUT_TYPES = classmethod(lambda cls: {"required": {}})
        RETURN_TYPES = ("THING",)
        FUNCTION = "run"
        made: ClassVar[list] = []

        def run(self):
            thing = Thing()
            self.made.append(weakref.ref(thing))
            return (thing,)

    class Use:
        INPUT_TYPES = classmethod(lambda cls: {"required": {"thing": ("THING",)}})
        RETURN_TYPES = ("INT",)
        FUNCTION = "run"

        def run(self, thing):
            return (1,)

    class Check:
        INPUT_TYPES = classmethod(lambda cls: {"required": {"x": ("INT",)}})
        RETURN_TYPES = ()
        FUNCTION = "run"
        OUTPUT_NODE = True

        def run(self, x):
            gc.collect()
            return {"ui": {"alive": [Make.made[-1]() is not None]}}

    k = await kernel(Make, Use, Check, cache="none")
    outcome = await k.run(
        {"1": n.node("Make"), "2": n.node("Use", thing=["1", 0]), "3": n.node("Check", x=["2", 0])}
    )
    assert outcome.outputs == {"3": {"alive": [False]}}


async def test_a_fingerprint_decides_whether_a_node_runs(k, n):
    prompt = {"1": n.node("Changing", x=1), "2": n.node("Show", x=["1", 0])}

    async def ran(fingerprint):
        n.Changing.fingerprint = fingerprint
        k.events.clear()
        await k.run(prompt)
        return k.ran()

    assert await ran("a") == ["1", "2"]
    assert await ran("a") == []
    assert await ran("b") == ["1", "2"]
    assert await ran(math.nan) == ["1", "2"]
    assert await ran(math.nan) == ["1", "2"]
    assert await ran(RuntimeError("cannot look")) == ["1", "2"]
    assert await ran(RuntimeError("cannot look")) == ["1", "2"]


async def test_nodes_that_are_not_idempotent_do_not_share(k, n):
    prompt = {"1": n.node("Unidentical", value=1), "2": n.node("Unidentical", value=1),
              "3": n.node("Add", a=["1", 0], b=["2", 0]), "4": n.node("Show", x=["3", 0])}  # fmt: skip
    await k.run(prompt)
    assert sorted(k.ran()) == ["1", "2", "3", "4"]


async def test_the_object_of_a_v1_node_is_kept_while_its_node_is_in_the_prompt(k, n):
    async def calls(**nodes):
        prompt = {**nodes, "show": n.node("Show", x=["c", 0])}
        return (await k.run(prompt)).outputs["show"]["text"]

    assert await calls(c=n.node("Counter", value=1)) == [1]
    assert await calls(c=n.node("Counter", value=2)) == [2]
    assert await calls(c=n.node("Num", value=9)) == [9]
    assert await calls(c=n.node("Counter", value=3)) == [1]


async def test_intermediate_output_is_shown_again_when_it_is_cached(k, n):
    prompt = {
        "1": n.node("Intermediate", value=5),
        "2": n.node("Add", a=["1", 0]),
        "3": n.node("Show", x=["2", 0]),
    }
    first = await k.run(prompt)
    k.events.clear()
    second = await k.run(prompt)
    assert k.ran() == []
    assert first.outputs == second.outputs == {"1": {"seen": [5]}, "3": {"text": [5]}}


async def test_the_classic_cache_keeps_the_latest_prompt_only(kernel, n):
    k = await kernel(*n.CLASSES, cache="classic")
    one = {"1": n.node("Num", value=1), "2": n.node("Show", x=["1", 0])}
    other = {"1": n.node("Num", value=2), "2": n.node("Show", x=["1", 0])}
    await k.run(one)
    await k.run(other)
    k.events.clear()
    await k.run(one)
    assert k.ran() == ["1", "2"]


async def test_the_lru_cache_goes_back_further(kernel, n):
    k = await kernel(*n.CLASSES, cache="lru", cache_lru=4)
    prompts = [{"1": n.node("Num", value=value), "2": n.node("Show", x=["1", 0])} for value in range(3)]
    await k.run(prompts[0])
    await k.run(prompts[1])
    k.events.clear()
    await k.run(prompts[0])
    assert k.ran() == []
    await k.run(prompts[2])  # takes the place of prompts[1], used longest ago
    k.events.clear()
    await k.run(prompts[0])
    assert k.ran() == []
    await k.run(prompts[1])
    assert k.ran() == ["1", "2"]


async def test_freeing_memory_empties_the_cache(k, n):
    await k.run(chain(n))
    assert (await k.app.jobs.free(unload_models=False, free_memory=True))["cached_results"] == 5
    k.events.clear()
    await k.run(chain(n))
    assert len(k.ran()) == 5


@st.composite
def sums(draw):
    """A random prompt of numbers and additions, no two nodes alike, with the value that each node has."""
    prompt, values = {}, {}
    for index in range(draw(st.integers(1, 12))):
        name = str(index)
        if index == 0 or draw(st.booleans()):
            values[name] = index
            prompt[name] = {"class_type": "Num", "inputs": {"value": index}}
        else:
            sources = [str(draw(st.integers(0, index - 1))) for _ in range(draw(st.integers(1, 2)))]
            values[name] = index + sum(values[source] for source in sources)
            inputs = {key: [source, 0] for key, source in zip("ab", sources, strict=False)}
            prompt[name] = {"class_type": "Add", "inputs": inputs | {"c": index}}
    outputs = draw(st.lists(st.sampled_from(sorted(prompt)), min_size=1, max_size=3, unique=True))
    for name in outputs:
        prompt["show" + name] = {"class_type": "Show", "inputs": {"x": [name, 0]}}
    return prompt, {"show" + name: {"text": [values[name]]} for name in outputs}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sums())
async def test_random_prompts_give_the_same_cached_and_uncached(k, case):
    prompt, expected = case
    assert (await k.run(copy.deepcopy(prompt))).outputs == expected
    k.events.clear()
    assert (await k.run(copy.deepcopy(prompt))).outputs == expected
    assert k.ran() == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sums(), st.data())
async def test_changing_one_constant_runs_exactly_what_depends_on_it(k, case, data):
    prompt, _ = case
    constants = [node for node in prompt if prompt[node]["class_type"] == "Num"]
    chosen = data.draw(st.sampled_from(constants))
    await k.app.jobs.free(unload_models=False, free_memory=True)
    await k.run(copy.deepcopy(prompt))
    changed = copy.deepcopy(prompt)
    changed[chosen]["inputs"]["value"] = 1000
    k.events.clear()
    await k.run(changed)

    depends = {chosen}
    for node in prompt:  # in topological order
        if depends & {value[0] for value in prompt[node]["inputs"].values() if isinstance(value, list)}:
            depends.add(node)
    needed, stack = set(), [node for node in prompt if node.startswith("show")]
    while stack:
        node = stack.pop()
        needed.add(node)
        stack.extend(value[0] for value in prompt[node]["inputs"].values() if isinstance(value, list))
    ran = k.ran()
    assert len(ran) == len(set(ran))
    assert set(ran) == depends & needed


class TestRamPressure:
    def cache(self, available):
        return RamPressureCache(100, 500, available=lambda: available[0], check_interval_s=0)

    def entry(self, size):
        return CacheEntry([[type("Array", (), {"nbytes": size})()]])

    def test_while_memory_is_free_everything_stays(self):
        cache = self.cache([1000])
        for key in (b"a", b"b"):
            cache.begin({key}, set())
            cache.put(key, self.entry(10), None)
            cache.relieve()
        assert cache.get(b"a") and cache.get(b"b")

    def test_what_the_prompt_does_not_use_goes_first(self):
        available = [1000]
        cache = self.cache(available)
        cache.begin({b"old"}, set())
        cache.put(b"old", self.entry(10), None)
        cache.begin({b"new"}, set())
        cache.put(b"new", self.entry(10_000_000), None)
        available[0] = 400
        cache.relieve()
        assert cache.get(b"old") is None and cache.get(b"new") is not None

    def test_with_hardly_any_left_its_own_results_go_large_ones_first(self):
        available = [1000]
        cache = self.cache(available)

        def entry(size):
            made = self.entry(size)
            weakref.finalize(made.outputs[0][0], lambda: available.__setitem__(0, available[0] + size))
            return made

        cache.begin({b"small", b"large"}, set())
        cache.put(b"small", entry(70_000), None)
        cache.put(b"large", entry(7_000_000), None)
        available[0] = 50
        cache.relieve()
        assert cache.get(b"large") is None and cache.get(b"small") is not None


def test_a_subgraph_stays_cached_as_long_as_its_node_is_in_the_prompt():
    cache = ClassicCache()
    root = ("1", "AddMany")
    scope = Scope(root, root)
    cache.begin({b"root"}, {root})
    cache.expanded(scope, {b"x", b"y"})
    for key in (b"x", b"y"):
        cache.put(key, CacheEntry([]), scope)
    cache.begin({b"root"}, {root})
    assert cache.get(b"x") and cache.get(b"y")
    cache.expanded(scope, {b"y", b"z"})
    assert cache.get(b"x") is None and cache.get(b"y")
    cache.begin(set(), {("2", "AddMany")})
    assert cache.get(b"y") is None


def test_the_lru_cache_never_drops_what_the_running_prompt_uses():
    cache = LruCache(1)
    cache.begin({b"a", b"b"}, set())
    cache.put(b"a", CacheEntry([]), None)
    cache.put(b"b", CacheEntry([]), None)
    assert cache.get(b"a") and cache.get(b"b")
    cache.begin({b"c"}, set())
    assert [key for key in (b"a", b"b") if cache.get(key)] == [b"b"]


def test_size_counts_arrays_in_nested_values():
    array = type("Array", (), {"nbytes": 7})()
    assert size_of([[array, {"samples": array}], [(array, "text")], None]) == 21


@pytest.mark.parametrize("subfolder", ["", "sub"])
@pytest.mark.parametrize("type", ["output", "temp"])
async def test_a_node_whose_file_was_deleted_runs_again(kernel, n, subfolder, type):
    """It alone, and again only when a file of it is gone; another node below it goes on with the new result."""

    class Save:
        INPUT_TYPES = classmethod(lambda cls: {"required": {"x": ("*",)}})
        RETURN_TYPES = ("*",)
        FUNCTION = "run"
        OUTPUT_NODE = True
        saved: ClassVar[list] = []

        def run(self, x):
            folder = app.folders.directory(type) / subfolder
            folder.mkdir(parents=True, exist_ok=True)
            names = [f"{len(self.saved)}-{number}.txt" for number in range(2)]
            self.saved.append([folder / name for name in names])
            for name in names:
                (folder / name).write_text(str(x))
            results = [{"filename": name, "subfolder": subfolder, "type": type} for name in names]
            return {"ui": {"texts": results, "animated": (True,)}, "result": (x,)}

    k = await kernel(*n.CLASSES, Save)
    app = k.app
    prompt = {**chain(n), "save": n.node("Save", x=["3", 0]), "below": n.node("Show", x=["save", 0])}
    await k.run(prompt)
    k.events.clear()
    await k.run(prompt)
    assert k.ran() == []
    Save.saved[0][1].unlink()
    k.events.clear()
    outcome = await k.run(prompt)
    assert k.ran() == ["save"]
    assert "save" not in k.messages("execution_cached")[0][1]["nodes"]
    assert [item["filename"] for item in outcome.outputs["save"]["texts"]] == ["1-0.txt", "1-1.txt"]
    assert outcome.outputs["below"] == {"text": [4]}
    k.events.clear()
    await k.run(prompt)
    assert k.ran() == []
