"""The choices that training offers, as typed data: light enough to be read while compiling."""
