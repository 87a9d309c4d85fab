"""Train a small GPT on your own text and write with it.

The rooms, from the top: ``cli`` (commands) calls the procedures (``train``, ``sample``, ``evaluate`` ...),
they use the model and the data modules, and those stand on ``config``, ``events``, ``errors`` and ``files``.
"""

__version__ = "0.1.0"
