"""Hydra configuration of Millrace: config.yaml and the groups beside it."""
