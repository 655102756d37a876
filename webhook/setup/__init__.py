"""Creates a data directory, and the certificates and kubeconfig files in it."""
