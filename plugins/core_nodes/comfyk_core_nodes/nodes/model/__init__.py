"""Nodes that change how a model is run."""
