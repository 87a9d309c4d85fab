"""A writing desk: a session with a model, its commands, what it keeps. Nothing here prints."""
