"""Direct preference optimisation (lesson 08): pairs of a run, loss, trainer, win rate."""
