"""A prompt as a graph: links, validation, expansion, signatures and the order of execution.

Everything here is iterative and linear in nodes plus links.
"""

from comfyk.graph.builder import GraphBuilder
from comfyk.graph.links import Prompt, is_link
from comfyk.graph.validation import PromptError

__all__ = ["GraphBuilder", "Prompt", "PromptError", "is_link"]
