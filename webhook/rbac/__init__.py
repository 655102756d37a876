"""The range engine: users, roles and permissions on ranges of keys, as in etcd. No I/O.

Auth tokens and revocations belong to it too. All of it is stored as records in a ``Backend``, a
protocol that ``records`` defines.
"""
