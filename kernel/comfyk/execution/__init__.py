"""Running a graph: node calls, list mapping, async nodes, caches, progress and interruption."""
