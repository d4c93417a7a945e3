"""Both papers at once: towers untied by modality, layers routed by task.

Neither paper tries this. Every experiment here is full-size and has a tiny form on the
digits (`--tiny`).
"""
