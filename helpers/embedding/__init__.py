"""Korean sentence embeddings: an encoder, the losses that train it, and the scores that judge it."""
