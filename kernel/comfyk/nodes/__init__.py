"""What a node is: the one face of typed and V1 nodes, the registry, and `object_info`."""

from comfyk.nodes.definition import InputSpec, InputTypes, LiveInputs, NodeDef, NodeResult

__all__ = ["InputSpec", "InputTypes", "LiveInputs", "NodeDef", "NodeResult"]
