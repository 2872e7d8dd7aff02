"""Models of sound: WaveNet, effect models, TCN, and vocoders and separators made of the same blocks."""
