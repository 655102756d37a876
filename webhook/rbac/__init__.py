"""Decides who is allowed to read and write which ranges of keys, by etcd's users and roles. No I/O.

What it stores goes as records through the protocol ``Backend`` in ``records``.
"""
