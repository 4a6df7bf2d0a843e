"""Captions from OpenAI's Batch API, or a server that speaks it: sent once, paid once, collected once.

`requests` writes what is sent and estimates its cost, `service` speaks to the server, `answers` reads what comes back,
and `ledger` is the record on disk of what was sent. `stream` knows where the requests of one caption table stand,
`steps` takes a batch of it from step to step, and `campaign` does so for several tables within a queue and a budget.
"""
