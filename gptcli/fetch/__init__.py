"""Fetching: from what the user typed to a corpus, with a record of where it came from. See ``fetching``."""
