"""The keys of trusted issuers: from files that may change, and from the network."""
