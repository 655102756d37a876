"""Creates a data directory and its kubeconfig files; creates, renews and revokes certificates."""
