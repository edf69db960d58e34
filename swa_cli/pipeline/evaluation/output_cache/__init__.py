"""Outputs of the models, kept between runs."""
