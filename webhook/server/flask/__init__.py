"""The rarely used routes, served by Flask on threads of their own."""
