"""The part of the sandbox that runs code. It imports only the standard library.

Trusted:
    __main__      starts a zygote: a fresh interpreter with one socket and a fixed environment
    zygote        preloads libraries, confines itself and serves requests
    supervisor    starts a process per run, enforces the limits, reaps, replies
    forker        the process that forks all others; it never holds code or output
    fanout        runs one prefix and forks it once for each of many next steps
    run           one run as the supervisor sees it: pipes, clocks, and how its end is classified
Trusted until the first line of a snippet runs, hostile from then on:
    execution     the code of a forked child: run a snippet and report
    event_loop    asyncio without sockets
Parts:
    confinement   the layers of confinement
    scratch       the private folder of a program that writes files
    seccomp, system_calls, kernel, protocol

The parent starts this folder by path and it registers itself as the package `rstar_sandbox_child`.
So a zygote imports neither the project nor its dependencies before it is confined.
"""
