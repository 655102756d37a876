"""The range engine: users, roles and permissions on ranges of keys, with etcd's semantics. No I/O.

What it keeps is written as records through the protocol in ``records``.
"""
