"""What dataset_downloader.py is made of, from the bottom up.

addresses    web addresses, and server text fit to print
web_errors   what can go wrong with a server, each as one line
web          a client: retries with back-off, redirects by hand, time-outs
login        Terrascope's tokens, renewed before they lapse
stac         Terrascope's catalogue
origins      which version of a file an answer or a .part is of
download     one file: Range resume, length, rename when whole
jobs         what is to be fetched and what has become of it
fetching     many files at once under one progress bar
notes        small tables that one run leaves for the next
areas        boxes and polygons to tiles
raw_tiles    the two kinds of tile
tile_plan    which are to be had, in the buckets or the catalogue
zenodo       the published zips and their checksums
percentages  the class percentages that they lack
published    unpacking them
console      options of addresses and products, the progress bar
"""
