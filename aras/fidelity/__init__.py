"""How good generated images are: what synthetic_metrics.py is made of."""
