"""Pages and whole sites: what lies on them, which of it are posts, and where each text is best."""
