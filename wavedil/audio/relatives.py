"""The former home of the models: importing it says where they are now."""

raise ImportError("wavedil.audio.relatives is now wavedil.audio.models: from wavedil.audio.models.tcn import TCN")
