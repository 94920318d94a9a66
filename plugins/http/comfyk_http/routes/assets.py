"""The asset routes while no plugin serves them: they say so, as ComfyUI does without `--enable-assets`.

With 404, since the API gives some of these operations that status and none of them 503.
"""

from __future__ import annotations

from aiohttp import web
from comfyk.api import ApiError, as_coded, operation

from comfyk_http.answer_descriptions import gives
from comfyk_http.errors import Handler

_OPERATIONS = (
    ("HEAD", "/assets/hash/{hash}", "checkAssetByHash"),
    ("GET", "/assets", "listAssets"),
    ("POST", "/assets", "createAsset"),
    ("POST", "/assets/from-hash", "createAssetFromHash"),
    ("GET", "/assets/tags/refine", "refineAssetTags"),
    ("POST", "/assets/seed", "seedAssets"),
    ("GET", "/assets/seed/status", "getAssetSeedStatus"),
    ("POST", "/assets/seed/cancel", "cancelAssetSeed"),
    ("POST", "/assets/prune", "pruneAssets"),
    ("GET", "/assets/{id}", "getAsset"),
    ("PUT", "/assets/{id}", "updateAsset"),
    ("DELETE", "/assets/{id}", "deleteAsset"),
    ("GET", "/assets/{id}/content", "getAssetContent"),
    ("POST", "/assets/{id}/tags", "addAssetTags"),
    ("DELETE", "/assets/{id}/tags", "removeAssetTags"),
    ("GET", "/tags", "listTags"),
)


def gated_routes() -> list[web.RouteDef]:
    """Every asset operation, answered with 404. A plugin that serves the same paths takes their place."""
    return [web.route(method, path, _gate(id)) for method, path, id in _OPERATIONS]


def _gate(id: str) -> Handler:
    @operation(
        id,
        "Not available: no plugin for assets is installed",
        tag="assets",
        errors=as_coded,
        answers={404: gives("There are no assets on this server", "CodedError")},
    )
    async def gate(request: web.Request) -> web.Response:
        """`/features` says `assets: false`."""
        raise ApiError(
            404,
            "SERVICE_DISABLED",
            "There are no assets on this server: no installed plugin serves them.",
        )

    return gate
