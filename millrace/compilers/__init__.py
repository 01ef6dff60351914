"""From a pipeline as data to a target's own document: pure, without network and credentials."""
