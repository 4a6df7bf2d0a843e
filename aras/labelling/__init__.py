"""Labelling images and rasters: what segmentation_predict.py is made of."""
