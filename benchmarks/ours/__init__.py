"""Our side of the comparisons: a script for each piece of work."""
