"""Running effect models: live, on files and on tensors; and their losses."""
