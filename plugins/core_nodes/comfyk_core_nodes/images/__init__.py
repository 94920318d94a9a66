"""Pictures: reading them from files, resizing, and saving them under names that nobody else has."""
