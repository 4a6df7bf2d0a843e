"""What two or more of the stage scripts share: the legend, tile names, files, runs, paired data, scores.

Nothing here prints, and only `aras.command` knows the command line.
"""
