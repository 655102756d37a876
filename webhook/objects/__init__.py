"""Looks up the ServiceAccounts, Pods, Secrets and Nodes that tokens are bound to."""
