"""Verifies and signs service account tokens: claims, audience, time, issuer, bound objects. No I/O.

The time is an argument. The signatures themselves are made and verified in ``keys``.
"""
