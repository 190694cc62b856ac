"""What ``encoder.py`` is made of: loading, adapters, dropout, pooling weights, the files beside a model."""
