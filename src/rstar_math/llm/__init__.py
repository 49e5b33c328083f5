"""Language models: a client for OpenAI-compatible servers, and models in this process.

The way of a request to a server:

    connect    chooses server, embedded model or torch by the model's name
    client     `OpenAIClient.complete`: splits a request; `_post` sends it, with retries
    formats    builds the JSON body and parses the reply, per route
    balancing  `Replicas.select` chooses the server; `Replica.post_limited` limits the load
    transport  sends the bytes over HTTP

The embedded model (`local`) is a llama.cpp server on the loopback address, with the same client.
"""
