"""Measurements of Millrace against what it is built on; see README.md."""
