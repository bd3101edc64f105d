"""Settings: from a file, the environment and flags to one ServerConfig, with every problem reported."""
