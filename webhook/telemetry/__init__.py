"""What Leeway says about itself: metrics, the log and the audit log."""
