"""faiss' own indexes: how they are made, and how they become exact, on a CPU and on GPUs."""
