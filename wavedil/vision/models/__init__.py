"""Models of dense prediction and their parts: backbones, heads, context module."""
