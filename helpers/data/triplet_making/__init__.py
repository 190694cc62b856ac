"""Three ways from a table to triplets (lesson 01), and their files; the command is ``triplets.py``."""
