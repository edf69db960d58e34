"""The configuration: its fields, and the YAML file that sets them."""
