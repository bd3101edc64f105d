"""What a finished snapshot is given later; each part is made in pieces, and continued where it was stopped."""
