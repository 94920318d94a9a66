"""A prompt as a graph: links, validation, expansion, signatures and the order of execution.

Everything here is iterative and linear in nodes plus links.
"""
