"""Queueing prompts over HTTP, and what comes of them."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from comfyk import hookimpl
from comfyk.jobs.memory import MemoryJobStore
from comfyk.jobs.model import Job


async def test_a_prompt_runs_and_is_in_the_history(server: Any) -> None:
    entry = await server.run(server.show(7), extra_data={"extra_pnginfo": {"workflow": {"id": "w"}}})
    assert entry["outputs"] == {"2": {"text": ["7"]}}
    assert entry["status"]["status_str"] == "success"
    assert entry["prompt"][2]["1"]["inputs"]["value"] == 7
    assert entry["prompt"][3]["extra_pnginfo"] == {"workflow": {"id": "w"}}
    assert entry["prompt"][4] == ["2"]


async def test_every_route_is_there_under_api_too(server: Any) -> None:
    for path in (
        "/prompt", "/queue", "/history", "/jobs", "/object_info", "/object_info/Show", "/system_stats", "/features",
        "/embeddings", "/models", "/models/vae", "/extensions",
    ):  # fmt: skip
        bare, under_api = await server.get(path), await server.get("/api" + path)
        assert bare[0] == under_api[0] == 200
        assert type(bare[1]) is type(under_api[1])


async def test_the_answer_says_what_was_queued(server: Any, new_id: str) -> None:
    status, answer = await server.post(
        "/prompt", {"prompt": server.show(), "prompt_id": new_id, "number": 4.5}
    )
    assert (status, answer) == (200, {"prompt_id": new_id, "number": 4.5, "node_errors": {}})


async def test_refused_prompts_are_one_line_in_the_log(server: Any, caplog: Any) -> None:
    unlinked = {
        "1": {"class_type": "Show", "inputs": {}},
        "2": {"class_type": "Show", "inputs": {"value": 1}},
    }
    for prompt in ({"9": {"class_type": "Gone"}}, {"1": {"class_type": "Show", "inputs": {}}}, unlinked, 5):
        await server.post("/prompt", {"prompt": prompt})
    told = [one.getMessage() for one in caplog.records if one.name == "comfyk_http.routes.prompt"]
    assert all("\n" not in one for one in told)
    assert told[0].startswith("refused a prompt: ") and "'Gone' not found" in told[0]
    assert told[1] == "refused a prompt: Show (1): Required input is missing: value"
    assert told[2].endswith(
        "runs without what is behind these errors: Show (1): Required input is missing: value"
    )
    assert told[3].startswith("refused a prompt: ") and "prompt" in told[3] and len(told) == 4


async def test_links_may_name_nodes_by_number(server: Any) -> None:
    prompt = server.show(5)
    prompt["2"]["inputs"]["value"] = [1, 0]
    entry = await server.run(prompt)
    assert entry["outputs"] == {"2": {"text": ["5"]}}
    assert entry["prompt"][2]["2"]["inputs"]["value"] == ["1", 0]


async def test_no_content_type_is_needed(server: Any) -> None:
    body = json.dumps({"prompt": server.show()}).encode()
    for headers in ({"Content-Type": "application/x-www-form-urlencoded"}, {"Content-Type": "text/plain"}):
        status, _ = await server.post("/prompt", data=body, headers=headers)
        assert status == 200


@pytest.mark.parametrize(
    ("body", "type"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b'{"prompt": {"1": {"class_type": "\xff"}}}', "invalid_json"),
        (b'{"prompt": {"1": {"class_type": "\\ud800"}}}', "invalid_json"),
        (b'{"prompt": {}, "number": NaN}', "invalid_request"),
        (b'{"prompt": {}, "number": 1e999}', "invalid_request"),
        (b'{"prompt": {}, "number": ' + b"9" * 5000 + b"}", "invalid_json"),
        (b'{"prompt": {}, "number": {}}', "invalid_request"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"prompt": ' + b'{"a":' * 180 + b"1" + b"}" * 181, "invalid_json"),
        (b"{}", "no_prompt"),
        (b'{"prompt": null}', "no_prompt"),
        (b'{"nodes": [], "links": [], "version": 0.4}', "ui_workflow"),
        (b'{"prompt": {"nodes": [], "links": []}}', "ui_workflow"),
        (b'{"1": {"class_type": "Show", "inputs": {}}}', "bare_prompt"),
        (b'{"1": {"inputs": {}}}', "no_prompt"),
        (b'{"prompt": []}', "invalid_request"),
        (b'{"prompt": "text"}', "invalid_request"),
        (b'{"prompt": {}, "extra_data": []}', "invalid_request"),
        (b'{"prompt": {}, "client_id": {}}', "invalid_request"),
        (b'{"prompt": {}, "extra_data": {"client_id": {}}}', "invalid_request"),
        (b'{"prompt": {}, "partial_execution_targets": 5}', "invalid_request"),
        (b'{"prompt": {}, "prompt_id": 5}', "invalid_prompt_id"),
        (b'{"prompt": {}, "prompt_id": "5"}', "invalid_prompt_id"),
        (b'{"prompt": {}}', "prompt_no_outputs"),
    ],
)
async def test_bad_prompts_are_refused(server: Any, body: bytes, type: str) -> None:
    status, answer = await server.post("/prompt", data=body)
    assert status == 400
    assert answer["error"]["type"] == type
    assert set(answer["error"]) == {"type", "message", "details", "extra_info"}
    assert answer["node_errors"] == {}


async def test_what_is_sent_in_a_prompts_place_is_told_what_to_do(server: Any) -> None:
    _, answer = await server.post("/prompt", {"nodes": [], "links": []})
    assert "File > Export (API)" in answer["error"]["details"]
    _, answer = await server.post("/prompt", server.show())
    assert answer["error"]["message"].endswith('wrap it as {"prompt": ...}.')


async def test_a_prompt_out_of_a_file_is_taken_with_its_nan_and_byte_order_mark(server: Any) -> None:
    prompt = json.dumps({"prompt": server.show(7)})
    lax = prompt.replace('"class_type"', '"is_changed": [NaN, Infinity], "class_type"')
    assert "NaN" in lax
    for body in (lax.encode(), prompt.encode("utf-8-sig")):
        status, answer = await server.post("/prompt", data=body)
        assert status == 200, answer
        entry = await server.until_ended(answer["prompt_id"])
        assert entry["outputs"] == {"2": {"text": ["7"]}}


async def test_other_spellings_of_an_id_are_refused(server: Any, new_id: str) -> None:
    for spelling in (new_id.upper(), new_id.replace("-", ""), f"{{{new_id}}}", f"urn:uuid:{new_id}"):
        status, answer = await server.post("/prompt", {"prompt": server.show(), "prompt_id": spelling})
        assert (status, answer["error"]["type"]) == (400, "invalid_prompt_id")


async def test_an_id_is_taken_only_once(server: Any, new_id: str) -> None:
    await server.run(server.show(), prompt_id=new_id)
    status, answer = await server.post("/prompt", {"prompt": server.show(), "prompt_id": new_id})
    assert (status, answer["error"]["type"]) == (400, "duplicate_prompt_id")


async def test_node_errors_are_reported(server: Any) -> None:
    status, answer = await server.post("/prompt", {"prompt": server.show(5000)})
    assert status == 400
    assert answer["error"]["type"] == "prompt_outputs_failed_validation"
    assert answer["node_errors"]["1"]["errors"][0]["type"] == "value_bigger_than_max"
    assert answer["node_errors"]["1"]["dependent_outputs"] == ["2"]


async def test_tokens_are_never_shown(server: Any) -> None:
    secrets = {"auth_token_comfy_org": "sesame", "api_key_comfy_org": "open"}
    running = await server.submit(server.single("Waits", value=1), extra_data=dict(secrets))
    pending = await server.submit(server.single("Waits", value=2), extra_data=dict(secrets))
    _, queue = await server.get("/queue")
    await server.post("/queue", {"clear": True})
    await server.post("/interrupt")
    entry = await server.run(server.show(), extra_data=dict(secrets))
    _, details = await server.get(f"/jobs/{entry['prompt'][1]}")
    assert running != pending
    shown = json.dumps([queue, entry, details])
    assert not any(text in shown for text in (*secrets, *secrets.values()))


async def test_the_header_says_what_the_usage_comes_from(server: Any) -> None:
    _, answer = await server.post(
        "/prompt", {"prompt": server.show()}, headers={"Comfy-Usage-Source": "script"}
    )
    _, details = await server.get(f"/jobs/{answer['prompt_id']}")
    assert details["workflow"]["extra_data"]["comfy_usage_source"] == "script"
    assert details["workflow"]["extra_data"]["create_time"] == details["create_time"]


async def test_a_deeply_nested_prompt_is_read_back_everywhere(server: Any) -> None:
    deep: Any = 1
    for _ in range(130):
        deep = [deep]
    entry = await server.run(server.show(), extra_data={"deep": deep})
    status, details = await server.get(f"/jobs/{entry['prompt'][1]}")
    assert status == 200
    assert details["workflow"]["extra_data"]["deep"] == deep


async def test_a_failing_node_fails_its_job_only(server: Any) -> None:
    entry = await server.run(server.single("Fails", value=3))
    assert entry["status"]["status_str"] == "error"
    _, details = await server.get(f"/jobs/{entry['prompt'][1]}")
    assert details["status"] == "failed"
    error = details["execution_error"]
    assert error["exception_message"].strip() == "no luck with 3"
    assert (error["node_id"], error["node_type"], error["current_inputs"]) == ("1", "Fails", {"value": [3]})
    assert error["current_outputs"] == {}
    failing = {**server.show(), "3": {"class_type": "Fails", "inputs": {"value": ["1", 0]}}}
    _, details = await server.get(f"/jobs/{(await server.run(failing))['prompt'][1]}")
    assert details["execution_error"]["current_outputs"].get("1") == {}
    assert (await server.run(server.show()))["status"]["completed"]


class Stores:
    """A plugin with a store."""

    def __init__(self, store: MemoryJobStore) -> None:
        self.store = store

    @hookimpl
    def comfyk_open_job_store(self) -> MemoryJobStore:
        return self.store


async def test_an_error_that_is_no_nodes_names_none(start: Any, new_id: str) -> None:
    store = MemoryJobStore()
    job = Job(new_id, 0, {}, {}, [], attempts=2)
    await store.add(job)
    await store.start(job, 1)
    server = await start(plugins=[Stores(store)])
    _, page = await server.get("/jobs?status=failed")
    _, details = await server.get(f"/jobs/{page['jobs'][0]['id']}")
    for job in (page["jobs"][0], details):
        assert job["execution_error"]["exception_type"] == "JobCrashed"
        assert (job["execution_error"]["node_id"], job["execution_error"]["node_type"]) == ("", "")


async def test_what_means_something_in_the_cloud_only_is_taken(server: Any) -> None:
    for value in (str(uuid.uuid4()), None, "x", 5):
        entry = await server.run(server.show(), workflow_id=value, workflow_version_id=value)
        assert "workflow_id" not in entry["prompt"][3]


async def test_jobs_are_listed_filtered_and_paged(server: Any) -> None:
    ids = [(await server.run(server.show(number)))["prompt"][1] for number in range(3)]
    await server.run(server.single("Fails", value=1))
    _, all_jobs = await server.get("/jobs")
    assert [job["id"] for job in all_jobs["jobs"]][1:] == ids[::-1]
    assert all_jobs["pagination"] == {"offset": 0, "limit": 4, "total": 4, "has_more": False}
    _, page = await server.get("/jobs?status=completed&limit=2&sort_order=asc")
    assert [job["id"] for job in page["jobs"]] == ids[:2]
    assert page["pagination"] == {"offset": 0, "limit": 2, "total": 3, "has_more": True}
    _, rest = await server.get("/jobs?status=completed&limit=2&sort_order=asc&offset=2")
    assert [job["id"] for job in rest["jobs"]] == ids[2:]
    assert page["jobs"][0]["preview_output"] == {"content": "0", "nodeId": "2", "mediaType": "text"}
    assert all(value is not None for job in all_jobs["jobs"] for value in job.values())


@pytest.mark.parametrize(
    "query", ["limit=-1", "limit=x", "offset=x", "sort_by=x", "sort_order=x", "limit=1.5", "limit="]
)
async def test_what_a_jobs_query_cannot_hold_is_named(server: Any, query: str) -> None:
    await server.run(server.show())
    _, all_jobs = await server.get("/jobs")
    async with server.client.get(f"/jobs?{query}") as response:
        assert (response.status, await response.json()) == (200, all_jobs)
        assert response.headers["Comfyk-Ignored"] == query.split("=")[0]


async def test_no_job_is_in_a_state_that_there_is_not(server: Any) -> None:
    await server.run(server.show())
    for query, found in (("status=x", 0), ("status=x,completed", 1), ("status=", 1), ("limit=0", 0)):
        _, page = await server.get(f"/jobs?{query}")
        assert len(page["jobs"]) == found
    assert page["pagination"] == {"offset": 0, "limit": 0, "total": 1, "has_more": True}


async def test_huge_numbers_of_rows_are_just_large(server: Any) -> None:
    await server.run(server.show())
    huge = "9" * 100
    assert len((await server.get(f"/jobs?limit={huge}"))[1]["jobs"]) == 1
    assert (await server.get(f"/jobs?offset={huge}"))[1]["jobs"] == []
    assert len((await server.get(f"/history?max_items={huge}&offset=-{huge}"))[1]) == 1
    assert len((await server.get("/history?max_items=x"))[1]) == 1


async def test_unknown_jobs(server: Any) -> None:
    for job_id in (str(uuid.uuid4()), "x", "%00", "..%2f", "%ED%A0%80"):
        assert (await server.get(f"/jobs/{job_id}"))[0] == 404
        assert await server.get(f"/history/{job_id}") == (200, {})
        assert await server.post(f"/jobs/{job_id}/cancel") == (200, {"cancelled": False})
    status, answer = await server.get(f"/jobs/{uuid.uuid4()}")
    assert (status, answer) == (
        404,
        {"error": "Job not found", "detail": "Job not found", "status_code": 404},
    )


async def test_history_pages_and_is_deleted(server: Any) -> None:
    ids = [(await server.run(server.show(number)))["prompt"][1] for number in range(4)]
    assert list((await server.get("/history"))[1]) == ids
    assert list((await server.get("/history?max_items=2"))[1]) == ids[2:]
    assert list((await server.get("/history?max_items=2&offset=1"))[1]) == ids[1:3]
    assert (await server.post("/history", {"delete": [ids[0], "x", "\x00"]}))[0] == 200
    assert list((await server.get("/history"))[1]) == ids[1:]
    assert (await server.post("/history", {"clear": True}))[0] == 200
    assert (await server.get("/history")) == (200, {})
