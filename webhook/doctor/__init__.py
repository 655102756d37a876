"""``leeway doctor``: finds what is wrong with a set-up, and names the command that fixes it."""
