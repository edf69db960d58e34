"""The names that files of each container have."""

SAFETENSORS = (".safetensors",)
TORCH = (".pt", ".pth", ".ckpt", ".pth.tar", ".bin")
