"""Where weights live and what is done to them: devices, dtypes, loaded models, patches, LoRA.

The rule that everything here follows: the tensors that a model was built with (its *home* weights, usually
views of the mapped checkpoint) are never written to. What is cast, patched or on a device is derived from
them and can be dropped at any time, so there is no second copy to keep, and taking patches off is exact.

`manager` holds the loaded models within the budget, `patcher` is what nodes pass around as MODEL, `residency`
moves the weights of one model, `weights` and `adapters` are the algebra of patches, `lora` and `lora_keys` read
LoRA files, `device`, `dtypes` and `settings` say what there is and what is wanted.
"""
