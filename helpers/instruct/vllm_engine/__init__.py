"""vLLM's engine: settings, start, questions and answers, and the memory it needs."""
