"""Schedules and models in numbers, as text and as a picture: the functions behind ``wavedil inspect``.

``inspect_schedule``, ``inspect_model`` and ``inspect_segmenter`` return a dict of plain values (``--json`` prints it);
``render_text``, ``render_segmenter`` and ``plot`` display it.
"""
