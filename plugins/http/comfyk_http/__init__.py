"""The plugin that serves comfyk over HTTP: the ComfyUI REST and WebSocket API.

The way in: `plugin.py` (hooks) -> `server.py` (listens, builds the application) -> `routes/` (one file per theme).
"""
