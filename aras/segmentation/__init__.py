"""Training and testing a segmenter: what segmentation_train.py is made of."""
