"""What a processor and a GPU can do, and how a process is let use them: nothing here knows of models and searches."""
