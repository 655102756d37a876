"""Users, roles, permissions on ranges of keys, auth tokens and revocations, as in etcd. No I/O.

They are stored as records in a ``Backend``, a protocol that ``records`` defines.
"""
