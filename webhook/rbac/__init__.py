"""What a user may do: etcd's users, roles and permissions on ranges of keys. No I/O."""
