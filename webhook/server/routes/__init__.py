"""Routes: parse, call, render, count."""
