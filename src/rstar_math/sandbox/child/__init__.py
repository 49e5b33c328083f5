"""The side of the sandbox that runs code: standard library only, never importing `rstar_math`.

Trusted:
    __main__      starts a zygote: a fresh interpreter, one socket, no environment
    zygote        preloads, confines itself, serves requests
    supervisor    forks, watches clocks and pipes, reaps, replies
    fanout        the same for one prefix with many next steps
Trusted up to the first line of a snippet's code, hostile from there on:
    execution     what a forked child does: confine, run, report; and the verdict on it
Parts:
    confinement   the layers, applied one by one
    seccomp, kernel, protocol

It is started by path and loaded as the package `rstar_sandbox_child`, so neither the project nor
its dependencies are imported in a zygote before it is confined.
"""
