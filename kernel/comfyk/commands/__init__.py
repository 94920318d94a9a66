"""The commands of `comfyk`, a file for each group of them; imported only when one is called."""
