"""Commands of the target `kubeflow`."""
