"""Where the weights of loaded models are, and what is done to them there: room on devices, and patches.

The rule that everything here follows: the tensors that a model was built with (its *home* weights, usually
views of the mapped checkpoint) are never written to. What is cast, patched or on a device is derived from
them and can be dropped at any time, so there is no second copy to keep, and taking patches off is exact.

`manager` holds the loaded models within the budget, `patcher` is what nodes pass around as MODEL, `residency`
moves the weights of one model, `patches` and `adapters` are the algebra of patches, `extensions` is what node packs
register, `freeing` gives memory back.
"""
