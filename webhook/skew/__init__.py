"""How far the clocks of the signers of tokens are ahead of this one, measured by their tokens."""
