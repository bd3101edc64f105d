"""Who may call, over which connections, and what an answer must never tell."""
