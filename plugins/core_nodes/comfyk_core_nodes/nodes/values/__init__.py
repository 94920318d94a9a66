"""Nodes for plain values, and for looking at what a link carries. None of them needs torch."""
