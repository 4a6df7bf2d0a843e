"""The paper's tables from the outputs of runs, beside the published figures.

published   the paper's figures (published.toml)
finding     the outputs below folders, read and judged whole or not
trainings   a segmenter's training: what it was trained on, and in what it differs from the paper's
statistics  means with intervals, paired tests, corrected for their number
table       tables as plain values
scores      the tables of segmentation
comparing   training data against training data, pair by pair
images      the tables of fidelity, captions and feature maps
writing     tables as Markdown, LaTeX and JSON
"""
