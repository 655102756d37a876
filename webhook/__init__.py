"""Leeway: a service-account token webhook for Kubernetes."""
