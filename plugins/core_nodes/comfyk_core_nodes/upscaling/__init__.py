"""Enlarging pictures with networks: ESRGAN and Real-ESRGAN here, others through `spandrel` when it is installed."""
