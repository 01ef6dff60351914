"""Pipelines shipped with the library, one module each."""
