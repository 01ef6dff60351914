"""Live backends: upload, submit, schedule, status."""
