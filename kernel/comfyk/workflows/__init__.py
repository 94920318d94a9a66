"""Workflows as the web UI saves them, and how they become prompts.

The command line and the HTTP API read files of people through here, so that both take, and refuse, the same.
"""

from comfyk.workflows.conversion import UI_NODES, Schemas, schemas_of, to_prompt
from comfyk.workflows.document import WorkflowError, is_bare_prompt, is_ui_workflow

__all__ = [
    "UI_NODES",
    "Schemas",
    "WorkflowError",
    "is_bare_prompt",
    "is_ui_workflow",
    "schemas_of",
    "to_prompt",
]
