"""The one HTTPS client for everything that Leeway fetches from others."""
