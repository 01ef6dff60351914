"""The commands that need a target, one module each: `run(words)` returns the exit code."""
