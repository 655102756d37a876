"""Where ServiceAccounts, Pods, Secrets and Nodes are looked up: a file or an API server."""
