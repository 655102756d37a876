"""What Leeway fetches from others: one HTTPS client, whose deadline holds."""
