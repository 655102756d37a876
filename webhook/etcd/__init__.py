"""etcd's wire: its auth API as JSON."""
