"""Supervised fine-tuning (lesson 07): rows, settings, loss, trainer; the run itself is ``tuning.py``."""
