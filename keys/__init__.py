"""Signing and verification keys: the only package that holds private keys.

It never imports ``webhook``.
"""
