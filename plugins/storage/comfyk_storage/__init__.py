"""comfyk-storage: jobs and history that survive the process, in SQLite or PostgreSQL."""
