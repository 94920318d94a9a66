"""A prompt as a graph: links, validation, expansion, signatures and the order of execution.

Everything here is iterative and linear in nodes plus links.
"""

from comfyk.graph.builder import GraphBuilder
from comfyk.graph.errors import PromptError, node_errors_summary
from comfyk.nodes.links import Prompt, is_link

__all__ = ["GraphBuilder", "Prompt", "PromptError", "is_link", "node_errors_summary"]
