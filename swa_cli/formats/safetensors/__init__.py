"""Files of safetensors: their header, and a writer."""
