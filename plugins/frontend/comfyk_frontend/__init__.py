"""The official web UI, served with its templates and its node documentation."""
