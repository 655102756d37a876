"""The rarely used routes, served by Flask on threads of their own.

They are token requests, rules reviews, etcd's auth API, API discovery, metrics and the skew report.
"""
