"""The side of the sandbox that runs code: standard library only, never importing `rstar_math`.

Trusted:
    __main__   start-up of a zygote: a fresh interpreter, one socket, no environment
    zygote     pre-loads, confines itself, serves requests
    judge      forks, watches clocks and pipes, reaps, replies
    fanout     the same for one prefix with many next steps
    run        one process under judgement, and the verdict on it
    group      ends of processes and process groups
Trusted up to the first line of a snippet's code, hostile from there on:
    snippet    what a forked child does: confine, run, say how it went
    branch     the processes of a fan-out: the prefix's and the candidates'
Parts:
    confine    the layers, put on one by one, each with a name that a test can leave out
    filters, bpf, syscalls, landlock, kernel, wire, limits

It is started by path and loaded as the package `rstar_sandbox_child`, so neither the project nor
its dependencies are imported in a zygote before it is confined.
"""
