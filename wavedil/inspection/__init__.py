"""Schedules and models in numbers, as text and as a picture: the functions behind ``wavedil inspect``.

``inspect_schedule`` and ``inspect_model`` return a dict of plain values, which ``--json`` prints; ``render_text`` and
``plot`` display it.
"""
