"""Ways out: a model written for other programs, and loaded back before the export counts as done."""
