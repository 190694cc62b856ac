"""Instruction models: loading now; prompts, tuning, preference, export and evaluation come with their lessons."""
