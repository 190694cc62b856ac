"""Training on query, document and hard negatives (lesson 03): batches, settings, trainer, command."""
