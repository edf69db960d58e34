"""The three steps and their composition, each from one configuration.

They are imported one by one: averaging does without torch, whose import takes longer than most averages.
"""
