"""Signing keys and certificates: creates, rotates and publishes them, signs and verifies with them.

This is the only package that handles private keys. It never imports ``webhook``, so it also has
what both packages use: strict JSON, private files, and text for messages.
"""
