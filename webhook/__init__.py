"""Leeway: reviews tokens and access for Kubernetes, issues tokens, and has etcd's auth API.

Signing keys and signatures are in the package ``keys``.
"""
