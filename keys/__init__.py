"""Makes, rotates, publishes and uses signing keys and certificates; never imports ``webhook``.

This is the only package that handles private keys.
"""
