"""How a job's outputs are counted, and which one stands for it."""

from __future__ import annotations

import pytest
from comfyk.jobs.outputs import listed_outputs, summarize_outputs

SAVED = {"filename": "saved.png", "subfolder": "", "type": "output"}
TEMP = {"filename": "preview.png", "subfolder": "", "type": "temp"}
TEXT_FILE = {"filename": "Notes.MD", "subfolder": "", "type": "output"}


def preview_name(outputs):
    preview = summarize_outputs(outputs).preview
    return preview and preview.get("filename", preview.get("content"))


def test_nothing():
    summary = summarize_outputs({})
    assert (summary.count, summary.previewable, summary.preview) == (0, 0, None)


def test_the_preview_says_where_it_comes_from():
    summary = summarize_outputs({"9": {"images": [SAVED, TEMP]}})
    assert (summary.count, summary.previewable) == (2, 2)
    assert summary.preview == {**SAVED, "nodeId": "9", "mediaType": "images"}


@pytest.mark.parametrize("reverse", [False, True])
def test_saved_media_come_before_temporary_before_text_files_before_texts(reverse):
    ranked = [
        ("saved.png", {"images": [SAVED]}),
        ("preview.png", {"images": [TEMP]}),
        ("Notes.MD", {"files": [TEXT_FILE]}),
        ("hello", {"text": ["hello"]}),
    ]
    while ranked:
        order = reversed(ranked) if reverse else ranked
        assert preview_name({str(i): node for i, (_, node) in enumerate(order)}) == ranked[0][0]
        ranked.pop(0)


def test_the_first_of_equals_stands_for_the_job():
    assert (
        preview_name({"1": {"images": [TEMP, SAVED]}, "2": {"images": [{**SAVED, "filename": "b"}]}})
        == "saved.png"
    )


def test_names_of_3d_models_are_files():
    summary = summarize_outputs({"3": {"result": ["mesh/A.GLB", None, "not a model"]}})
    assert (summary.count, summary.previewable) == (1, 1)
    assert summary.preview == {
        "filename": "mesh/A.GLB",
        "type": "output",
        "subfolder": "",
        "mediaType": "3d",
        "nodeId": "3",
    }


def test_texts_are_shown_but_not_counted():
    summary = summarize_outputs({"1": {"text": ["a" * 2000]}})
    assert (summary.count, summary.previewable) == (0, 0)
    assert summary.preview == {"content": "a" * 1024, "truncated": True, "nodeId": "1", "mediaType": "text"}
    assert summarize_outputs({"1": {"text": [("b", "c")]}}).preview == {
        "content": "b",
        "nodeId": "1",
        "mediaType": "text",
    }
    assert summarize_outputs({"1": {"text": [7]}}).preview == {
        "content": "7",
        "nodeId": "1",
        "mediaType": "text",
    }
    assert summarize_outputs({"1": {"text": [None, ()]}}).preview == {
        "content": "",
        "nodeId": "1",
        "mediaType": "text",
    }


def test_what_cannot_be_shown_is_counted_only():
    latent = {"filename": "a.latent", "type": "output"}
    summary = summarize_outputs({"1": {"latents": [latent], "gifs": [{**latent, "format": "video/mp4"}]}})
    assert (summary.count, summary.previewable) == (2, 1)
    assert summary.preview == {**latent, "format": "video/mp4", "nodeId": "1", "mediaType": "gifs"}


@pytest.mark.parametrize(
    "outputs",
    [
        {"1": None},
        {"1": ["x"]},
        {"1": {"animated": [True], "images": None, "count": 3}},
        {"1": {"a": [1, 2.5, True, ["x"]]}},
    ],
)
def test_what_is_no_list_of_items_is_passed_over(outputs):
    summary = summarize_outputs(outputs)
    assert (summary.count, summary.preview) == (0, None)


def test_fields_of_the_wrong_kind_do_no_harm():
    summary = summarize_outputs({"1": {"files": [{"filename": 3, "format": ["video/"], "type": None}]}})
    assert (summary.count, summary.previewable) == (1, 0)


def test_details_list_files_and_leave_nulls_out():
    outputs = {
        "1": {"result": ["a.obj", None, "text"], "images": [SAVED], "animated": [None], "n": 1},
        "2": "odd",
    }
    assert listed_outputs(outputs) == {
        "1": {
            "result": [
                {"filename": "a.obj", "type": "output", "subfolder": "", "mediaType": "3d"},
                "text",
            ],
            "images": [SAVED],
            "animated": [None],
            "n": 1,
        },
        "2": "odd",
    }
