"""Signs service account tokens for kube-apiserver: ExternalJWTSigner v1, on a Unix socket."""
