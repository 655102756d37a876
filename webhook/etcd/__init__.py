"""etcd's wire: its auth API in JSON, and a client of its gRPC API."""
