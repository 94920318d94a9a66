"""From a prompt to what a model is conditioned on: prompt syntax, tokenizers, text encoders."""
