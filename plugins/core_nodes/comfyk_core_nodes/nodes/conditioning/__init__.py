"""Nodes that change what a model is conditioned on."""
