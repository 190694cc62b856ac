"""From a model's answers or likelihoods to classes and scores (lesson 10); the evaluation is ``zero_shot.py``."""
