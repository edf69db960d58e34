"""The programs in runs/ are a user's: they need trainers that may not be installed."""

collect_ignore = ["runs"]
