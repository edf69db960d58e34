"""The safetensors format: header and writer."""
