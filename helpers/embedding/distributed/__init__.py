"""Training in several processes (lesson A2): one batch shared out, its gradient held against one process's."""
