"""Captions from OpenAI's Batch API, or a server that speaks it: sent once, paid once, collected once.

`requests` writes what is sent and estimates its cost, `service` speaks to the server, `answers` reads what comes back,
`ledger` is the record on disk of what was sent, and `stream` leads the requests of one caption table through it all.
"""
