"""Training of Keras models, in one process or many. The components `train` and `bert` are fronts of it."""
