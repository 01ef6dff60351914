"""Work handed to services of a Kubernetes cluster: jobs of several hosts, endpoints, experiments."""
