"""Builds that clients ask for: each is a process of its own, remembered across restarts."""
