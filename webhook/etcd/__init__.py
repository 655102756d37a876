"""Parses and renders etcd's auth API in JSON."""
