"""The 22 instruction tasks (lesson 06): sources, formats, validators, wordings, leaks; the command is ``tasks.py``."""
