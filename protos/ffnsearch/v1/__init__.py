"""Version 1 of the wire contract; the modules here are generated from `ffnsearch.proto`."""
