"""etcd's auth API in JSON: parses its requests and renders its answers."""
