"""Whether a text copies the training text: the index that is made with the tokens, and what is asked of it."""
