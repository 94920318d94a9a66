"""Opening the web UI in the user's browser."""

from __future__ import annotations

import logging
import threading
import webbrowser

log = logging.getLogger(__name__)


def open_browser(url: str) -> threading.Thread:
    """Show a page in the browser that the system, or the variable `BROWSER`, names; in a thread, since some block."""

    def show() -> None:
        try:
            opened = webbrowser.open(url)
        except Exception:  # of whatever the system has for a browser
            log.warning("the browser cannot be opened; go to %s", url, exc_info=True)
            return
        if not opened:
            log.warning("there is no browser that could be opened; go to %s", url)

    thread = threading.Thread(target=show, name="comfyk-browser", daemon=True)
    thread.start()
    return thread
