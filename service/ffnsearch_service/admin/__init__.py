"""What an administrator can do with a running server: other snapshots, other aliases, builds."""
