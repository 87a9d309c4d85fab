"""Weights to begin from: published models, folders, runs and nanoGPT's checkpoints, all opened as a ``Base``."""
