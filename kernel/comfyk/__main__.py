"""`python -m comfyk` is the command `comfyk`."""

from comfyk.cli import main

main()
