"""Maps of images by their features: what segformer_vis.py is made of."""
