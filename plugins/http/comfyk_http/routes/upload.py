"""`/upload/image` and `/upload/mask`: a file comes in, and finds its place in the input, output or temp folder."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, TypeVar

from aiohttp import web
from comfyk.api import BadField, Form, operation, read_form, user_of
from comfyk.folders import resolve_inside

from comfyk_http import pictures
from comfyk_http.answer_descriptions import gives
from comfyk_http.json_answers import json_answer
from comfyk_http.keys import APP, PICTURES
from comfyk_http.requests import MaskForm, UploadForm
from comfyk_http.routes.view import locate

F = TypeVar("F", bound=UploadForm)

_ANSWERS = {
    200: gives("The name that the file got", "UploadResult"),
    400: gives("There is no file, or it cannot be stored under that name", "ErrorObject"),
}


@operation("uploadImage", "Store a file", tag="upload", form=UploadForm, user=True, answers=_ANSWERS)
async def upload_image(request: web.Request) -> web.Response:
    """If there is another file of that name, it gets a number, unless `overwrite` is `true`."""
    async with read_form(request, UploadForm, files=("image",)) as form:
        return await _place(request, form)


@operation("uploadMask", "Store a masked picture", tag="upload", form=MaskForm, user=True, answers=_ANSWERS)
async def upload_mask(request: web.Request) -> web.Response:
    """A copy of the picture `original_ref` with the sent picture's alpha channel."""
    async with read_form(request, MaskForm, files=("image",)) as form:
        ref = form.fields.original_ref
        try:
            original = await locate(request.app[APP].folders, ref.filename, ref.type, ref.subfolder)
        except (ValueError, OSError) as error:
            raise BadField("original_ref", str(error)) from None
        if original is None:
            raise BadField("original_ref", f"there is no file {ref.filename!r}")
        mask = form.files["image"]
        try:
            work = partial(pictures.put_mask, mask=mask.path, target_name=mask.name)
            await request.app[PICTURES].run(request, original, work, mask.path)
        except pictures.PictureError as error:
            raise BadField("image", str(error)) from None
        return await _place(request, form)


async def _place(request: web.Request, form: Form[F]) -> web.Response:
    """Give the file its name, and tell the plugins; what they add to the answer does not replace what it says."""
    app, asked, file = request.app[APP], form.fields, form.files["image"]
    user = user_of(request)
    root = app.folders.directory(asked.type)
    name = await asyncio.to_thread(file.place, root, asked.subfolder, file.name, overwrite=asked.overwrites)
    added: dict[str, Any] = {}
    if app.hook.implements("comfyk_file_saved"):
        path = resolve_inside(root, asked.subfolder, name)
        for fields in await app.hook.comfyk_file_saved(path=path, folder=asked.type, user=user):
            added |= fields
    return json_answer({**added, "name": name, "subfolder": asked.subfolder, "type": asked.type})
