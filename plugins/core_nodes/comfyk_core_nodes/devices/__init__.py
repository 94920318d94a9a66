"""What there is to compute on: the devices and their memory, what was chosen in the settings, and freed memory."""
