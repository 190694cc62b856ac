"""What the prompt object (``prompts.py``) is made of: special tokens, conversations, its file."""
