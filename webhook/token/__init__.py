"""What a token says, and whether it holds: bytes and the time in, an outcome out. Pure.

It also has the other direction: the claims of a token to be signed, and an issuer's documents.
"""
