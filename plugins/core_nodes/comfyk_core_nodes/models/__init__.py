"""Networks in plain torch, and how checkpoint files become them. Importing this package imports no torch."""
