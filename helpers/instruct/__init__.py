"""Instruction models: prompts, tuning, preference, export, generation and zero-shot evaluation."""
