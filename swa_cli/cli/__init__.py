"""The command line: argv to one configuration, one call, one rendering, one exit code."""
