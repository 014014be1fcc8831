"""The user's files: settings, content, and the splits of a run or of an evaluation."""
