"""Signing keys and certificates: creates, rotates and publishes them, signs and verifies with them.

This is the only package that creates signing keys and signs with them. What a token says is the
business of ``webhook.token``. ``keys`` never imports ``webhook``, so it also has what both packages
use: strict JSON, private files, and text for messages.
"""
