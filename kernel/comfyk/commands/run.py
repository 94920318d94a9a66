"""`comfyk run`: execute a workflow without a server, and say which files it made."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from comfyk.commands.main_loop import Ended, run_to_end
from comfyk.commands.run_display import display, label
from comfyk.commands.session import Session
from comfyk.commands.workflow_file import Workflow, read_workflow
from comfyk.ctrl_c import CtrlC
from comfyk.jobs.model import JobStatus
from comfyk.settings import Override
from comfyk.settings_sources import did_you_mean
from comfyk.workflows import WorkflowError, schemas_of, to_prompt

if TYPE_CHECKING:
    from comfyk.app import App


@dataclass(slots=True)
class _Result:
    status: str
    """`completed`, `failed`, `cancelled`, or `refused` when it did not even begin."""
    files: list[dict[str, Any]] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    node_errors: dict[str, Any] = field(default_factory=dict)
    """What validation found; the outputs behind it did not run."""
    seconds: float = 0.0


@click.command(short_help="Run a workflow without a server.")
@click.argument("workflow")
@click.option(
    "--set", "changes", multiple=True, metavar="NODE.INPUT=VALUE", help="Change an input; repeatable."
)
@click.option("--output", metavar="DIR", help="Where to save, instead of the output folder.")
@click.option(
    "--input", "input_", metavar="DIR", help="Where to read pictures from, instead of the input folder."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def run(
    ctx: click.Context,
    workflow: str,
    changes: tuple[str, ...],
    output: str | None,
    input_: str | None,
    as_json: bool,
) -> None:
    """Run WORKFLOW: JSON as the web UI saves or exports it, a PNG that carries one, or - for standard input.

    Exits with 0 when all of it ran, 1 when something failed, 130 on Ctrl-C.
    """
    session: Session = ctx.obj
    overrides: dict[str, Any] = {}
    if output is not None:
        overrides["folders.output"] = Override(output, "--output")
    if input_ is not None:
        overrides["folders.input"] = Override(input_, "--input")
    # Both are told here, in full.
    for name in ("comfyk.graph.validation", "comfyk.execution"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        read = read_workflow(workflow)
        result = run_to_end(_execute(session, overrides, read, changes, quiet=as_json))
    except (WorkflowError, OSError, Ended) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        ctx.exit(130)
    if as_json:
        click.echo(json.dumps({name: getattr(result, name) for name in _Result.__slots__}, indent=2))
    else:
        _report(read.prompt or {}, result)
    ctx.exit(0 if result.status == "completed" and not result.node_errors else 1)


async def _execute(
    session: Session, overrides: Mapping[str, Any], workflow: Workflow, changes: Iterable[str], *, quiet: bool
) -> _Result:
    from comfyk.graph.validation import PromptError
    from comfyk.jobs.memory import MemoryJobStore

    app = session.app(overrides, store=MemoryJobStore())
    extra = {"extra_pnginfo": {"workflow": workflow.ui}} if workflow.ui else {}
    async with app:
        prompt = workflow.prompt
        if prompt is None:
            prompt = workflow.prompt = to_prompt(workflow.ui, schemas_of(app.nodes))
        _change(app, prompt, changes)
        began = time.perf_counter()
        with display(prompt, quiet=quiet) as show:
            unsubscribe = app.events.subscribe(show)
            try:
                submission = await app.jobs.submit(prompt, extra_data=extra)
                outcome = await app.jobs.wait(submission.job.id)
            except PromptError as error:
                return _Result("refused", error=error.error, node_errors=error.node_errors)
            finally:
                unsubscribe()
        if outcome.status is JobStatus.CANCELLED:
            raise CtrlC
        return _Result(
            status=outcome.status.value,
            files=list(_files(app, outcome.outputs)),
            outputs=outcome.outputs,
            error=outcome.error,
            node_errors=submission.node_errors,
            seconds=round(time.perf_counter() - began, 3),
        )


def _change(app: App, prompt: dict[str, Any], changes: Iterable[str]) -> None:
    """Apply `--set NODE.input=value`: the value is JSON, or else text. Raises WorkflowError."""
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or "." not in key:
            raise WorkflowError(f"--set {change}: expected NODE.INPUT=VALUE")
        node_id = max((one for one in prompt if key.startswith(f"{one}.")), key=len, default=None)
        if node_id is None:
            wanted = key.partition(".")[0]
            known = ", ".join(label(prompt, one) for one in prompt)
            hint = did_you_mean(wanted, prompt) or ";"
            raise WorkflowError(f"--set {change}: there is no node {wanted!r}{hint} the nodes are {known}")
        name = key[len(node_id) + 1 :]
        known_names = _input_names(app, prompt[node_id])
        if known_names is not None and name not in known_names and name.partition(".")[0] not in known_names:
            hint = did_you_mean(name, known_names) or ";"
            raise WorkflowError(
                f"--set {change}: {label(prompt, node_id)} has no input {name!r}{hint} "
                f"it has {', '.join(known_names)}"
            )
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        prompt[node_id].setdefault("inputs", {})[name] = value


def _input_names(app: App, node: Mapping[str, Any]) -> list[str] | None:
    """The inputs that a node may be given; None when it takes any, or is not known here."""
    definition = app.nodes.get(node["class_type"])
    if definition is None or definition.accept_all_inputs:
        return None
    types = definition.input_types()
    names = [*types.get("required", {}), *types.get("optional", {}), *node.get("inputs", {})]
    return list(dict.fromkeys(names))


def _files(app: App, outputs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for node_id, ui in outputs.items():
        for entries in ui.values():
            for entry in entries if isinstance(entries, list) else ():
                if isinstance(entry, dict) and {"filename", "type"} <= entry.keys():
                    folder = app.folders.directory(entry["type"]) / entry.get("subfolder", "")
                    path = folder / entry["filename"]
                    yield {"node_id": node_id, "type": entry["type"], "path": str(path)}


def _report(prompt: Mapping[str, Any], result: _Result) -> None:
    from comfyk.graph.errors import in_words

    for file in result.files:
        click.echo(_shown(Path(file["path"])))
    for node_id, entry in result.node_errors.items():
        for error in entry["errors"]:
            click.echo(f"Error: {label(prompt, node_id)}: {in_words(error)}", err=True)
    if result.status == "refused" and not result.node_errors and result.error:
        click.echo(f"Error: {in_words(result.error)}", err=True)
    elif result.status == "failed" and result.error:
        _report_failure(result.error)
    elif result.status == "completed":
        skipped = ", without the outputs behind these errors" if result.node_errors else ""
        click.echo(f"done in {result.seconds:.2f} s{skipped}", err=True)


def _report_failure(error: Mapping[str, Any]) -> None:
    said = str(error["exception_message"]).strip()
    kind = str(error["exception_type"])
    if said.partition("\n")[0] not in (kind, kind.rpartition(".")[2]):  # else it said nothing but its class
        said = f"{kind}: {said}"
    lines = [f"Error: {error['node_type']} ({error['node_id']}): {said}".rstrip(": ")]
    inputs = error.get("current_inputs") or {}
    if isinstance(inputs, Mapping):
        lines += [f"  {name} = {_short(value)}" for name, value in inputs.items()]
    lines += [line.rstrip() for part in error.get("traceback") or () for line in part.splitlines()]
    click.echo("\n".join(lines), err=True)


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _shown(path: Path) -> str:
    """Relative to the current directory when it is in there."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
