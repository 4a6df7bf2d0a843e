"""The choice of generated images to train on (synthetic_select.py)."""
