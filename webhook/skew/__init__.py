"""Estimates from tokens how far signers' clocks are ahead, and decides whose clock is wrong."""
