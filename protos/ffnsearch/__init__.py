"""The wire contract of ffnsearch."""
