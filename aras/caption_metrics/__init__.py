"""What captions say and how it compares with the masks, from the bottom up.

reading     a caption as marks, by the phrases of lexicon.toml
positions   which classes it places where
claims      all that it claims: classes, denials, the dominant one, percentages, positions
streams     the CSVs in which captions lie, row by row
truth       percentages and masks
grounding   claims against truth: counts, scores, intervals
redundancy  exact and near-duplicates, vocabulary, length
leakage     the composition as read from words
measuring   a stream measured by processes, with bounded memory
clip        CLIPScore
report      the table beside the paper's figures
worst       the worst captions, listed and drawn
"""
