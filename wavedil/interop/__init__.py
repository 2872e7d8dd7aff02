"""Weights of other programs, in and out. Each module knows one program's format; none of them runs its code."""
