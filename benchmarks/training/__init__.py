"""Teams of processes that train, each on a core, held still while others are measured."""
