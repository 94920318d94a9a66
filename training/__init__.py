"""How the demo model is made: `python -m training`."""
