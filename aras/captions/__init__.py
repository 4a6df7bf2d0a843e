"""What the five captioners share, from the bottom up.

table          the CSV `filename,caption` that grows by whole rows
percentages    tables of class percentages
work           which images or percentage rows are to be captioned, and into which CSV
rivers         long and narrow water in a mask
layout         facts of a mask in words: where each class lies, the largest patch, rivers, borders
prompts        what a model is asked
template       captions that need no model
loop           resuming, saving, failures: one loop over one function `generate(items) -> captions`
batching       work sorted by length, images read ahead, batches halved when memory runs out
sampling       one random stream per caption, so that neither batch size nor resuming changes it
sources        where a language model comes from
models         language models by transformers
endpoint       language models by a server that speaks OpenAI's protocol
ollama_server  a model of an Ollama server, for ollama_captioner.py
command        the captioners' command line
backends       what writes the captions of the three local scripts, by --model and --endpoint
"""
