"""What the components of the data plane share: tables, vocabularies, transformations that are learnt, leaks."""
