"""The component library: one folder each, with spec.py (light), main.py (the work) and README.md."""
