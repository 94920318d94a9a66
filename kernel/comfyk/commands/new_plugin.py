"""The project that `comfyk plugin new` writes: about the smallest plugin that uses each kind of hook."""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection
from pathlib import Path

_FILES = {
    "pyproject.toml": """\
[project]
name = "comfyk-@NAME@"
version = "0.1.0"
description = "@TITLE@: a plugin for comfyk"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["comfyk-kernel"]
optional-dependencies.test = ["pytest"]

[project.entry-points.comfyk]
@NAME@ = "comfyk_@MODULE@"

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[tool.hatch.build.targets.wheel]
only-include = ["comfyk_@MODULE@.py"]

[tool.pytest.ini_options]
pythonpath = ["."]
""",
    "comfyk_@MODULE@.py": '''\
"""@TITLE@: a plugin for comfyk. Take out what you do not need; `comfyk.hookspecs` has every hook."""

import logging

import click
from pydantic import Field

from comfyk import current_app, hookimpl, io
from comfyk.events import ExecutionSuccess
from comfyk.settings import Section

log = logging.getLogger(__name__)


class @CLASS@Settings(Section):
    """The section `[@MODULE@]` of comfyk.toml."""

    greeting: str = Field("Hello", description="What is said before the name.")


@hookimpl
def comfyk_register_settings():
    return {"@MODULE@": @CLASS@Settings}


def greet(app, name):
    return f"{app.settings.section('@MODULE@').greeting}, {name}!"


class @CLASS@(io.ComfyNode):
    """A node: a greeting as text, also shown in the web UI."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="@CLASS@",
            display_name="@TITLE@",
            category="@NAME@",
            inputs=[io.String.Input("name", default="world")],
            outputs=[io.String.Output()],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, name):
        text = greet(current_app(), name)
        return io.NodeOutput(text, ui={"text": [text]})


@hookimpl
def comfyk_register_nodes(app):
    app.nodes.add(@CLASS@)


@hookimpl
def comfyk_register_routes(app):
    from aiohttp import web

    async def hello(request):
        return web.json_response({"text": greet(app, request.query.get("name", "world"))})

    return [web.get("/@NAME@", hello)]


@hookimpl
def comfyk_register_commands(cli):
    @cli.command("@NAME@")
    @click.argument("name", default="world")
    @click.pass_obj
    def hello(session, name):
        """Greet NAME."""
        click.echo(greet(session, name))


@hookimpl
def comfyk_event(app, event):
    if isinstance(event, ExecutionSuccess):
        log.info("@NAME@: job %s is done", event.job_id)
''',
    "test_@MODULE@.py": """\
import asyncio

import comfyk_@MODULE@
from comfyk.app import App
from comfyk.plugins import Plugins
from comfyk.settings import load_settings


def test_a_prompt_with_the_node_runs(tmp_path):
    plugins = Plugins()
    plugins.register(comfyk_@MODULE@, "@NAME@")
    settings = load_settings(plugins, overrides={"folders.base": tmp_path, "@MODULE@.greeting": "Ahoy"})

    async def run():
        async with App(settings, plugins) as app:
            prompt = {"1": {"class_type": "@CLASS@", "inputs": {"name": "you"}}}
            submission = await app.jobs.submit(prompt)
            return await app.jobs.wait(submission.job.id)

    assert asyncio.run(run()).outputs == {"1": {"text": ["Ahoy, you!"]}}
    assert [error.message for info in plugins.infos() for error in info.errors] == []
""",
    "README.md": """\
# comfyk-@NAME@

A plugin for comfyk.

    python -m pip install -e '.[test]'    # with the Python of the environment that comfyk is in
    python -m pytest        # its test
    comfyk @NAME@ you       # its command
    comfyk start            # its node is "@TITLE@", its route /@NAME@

`comfyk plugin disable @NAME@` takes all of it away. Settings, in `comfyk.toml`:

    [@MODULE@]
    greeting = "Hello"
""",
}


class NameRefused(Exception):
    """The name cannot be a plugin's; the message says why."""


def write_plugin(name: str, folder: Path, taken: Collection[str]) -> Path:
    """Write the project `folder/name`. Raises NameRefused, and FileExistsError rather than touch what is there."""
    module = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > 40:
        raise NameRefused(f"{name!r} cannot name a plugin: use lowercase letters, digits and single dashes")
    if {name, module} & set(taken) or keyword.iskeyword(module):
        raise NameRefused(f"{name!r} is taken: plugins and settings sections need names of their own")
    project = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        project.mkdir()
    except FileExistsError as error:
        raise FileExistsError(f"{project} exists already; nothing was written") from error
    words = {
        "NAME": name,
        "MODULE": module,
        "CLASS": "".join(part.capitalize() for part in name.split("-")),
        "TITLE": name.replace("-", " ").capitalize(),
    }
    for file, text in _FILES.items():
        (project / _fill(file, words)).write_text(_fill(text, words), encoding="utf-8")
    return project


def _fill(text: str, words: dict[str, str]) -> str:
    return re.sub(r"@([A-Z]+)@", lambda match: words[match[1]], text)
