"""Effect models in use: live, on files, and their losses."""
