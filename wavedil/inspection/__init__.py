"""Inspects schedules and models: the functions behind ``wavedil inspect``.

``inspect_schedule`` and ``inspect_model`` return a dict of plain values, which ``--json`` prints; ``render_text`` and
``plot`` show it.
"""
