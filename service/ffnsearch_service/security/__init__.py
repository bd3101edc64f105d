"""Who may call, over which connections, and what must an answer never reveal?"""
