"""A job's code, model and trainer, in a child process without keys, files and network: `securefl.usercode.remote.trainer_of`.

What it does not protect: see `securefl.usercode.isolation` for the walls, `securefl.usercode.remote` for what crosses them.
"""
