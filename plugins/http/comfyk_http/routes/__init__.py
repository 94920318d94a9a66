"""The routes of the http plugin, one file per theme. Handlers parse, call the kernel, and answer."""

from __future__ import annotations

from aiohttp import web


def all_routes() -> list[web.RouteDef]:
    """Every route; the server serves each under `/api` too."""
    from comfyk_http import websocket
    from comfyk_http.routes import (
        extensions,
        history,
        jobs,
        models,
        object_info,
        prompt,
        queue,
        root,
        system,
        upload,
        view,
    )

    return [
        web.get("/ws", websocket.connect),
        web.get("/", root.headless_page),
        web.get("/prompt", prompt.get_prompt),
        web.post("/prompt", prompt.post_prompt),
        web.get("/queue", queue.get_queue),
        web.post("/queue", queue.post_queue),
        web.post("/interrupt", queue.interrupt),
        web.post("/free", queue.free),
        web.get("/history", history.get_history),
        web.post("/history", history.post_history),
        web.get("/history/{prompt_id}", history.get_history_entry),
        web.get("/jobs", jobs.list_jobs),
        web.post("/jobs/cancel", jobs.cancel_jobs),
        web.get("/jobs/{job_id}", jobs.get_job),
        web.post("/jobs/{job_id}/cancel", jobs.cancel_job),
        web.get("/view", view.view),
        web.post("/upload/image", upload.upload_image),
        web.post("/upload/mask", upload.upload_mask),
        web.get("/object_info", object_info.get_object_info),
        web.get("/object_info/{node_class}", object_info.get_one),
        web.get("/system_stats", system.get_system_stats),
        web.get("/features", system.get_features),
        web.get("/embeddings", models.get_embeddings),
        web.get("/models", models.get_model_types),
        web.get("/models/{folder}", models.get_models),
        web.get("/extensions", extensions.list_extensions),
        web.get("/extensions/{name}/{path:.+}", extensions.get_extension_file),
    ]
