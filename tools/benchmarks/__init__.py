"""The commands of `tools/benchmark.py`, one file each, and what they share.

A command file has three names, which the driver takes:

    ROUNDS = 5                                   # how often every side is measured, by default
    PARTS = {"loss": loss_comparisons, ...}      # what --only chooses from: name -> function
    def add_options(parser: argparse.ArgumentParser) -> None: ...    # options of its own

A function of PARTS takes the parsed options and yields `measuring.Comparison`s. One has a name (what is measured, with
the size and the batch), a `Side` of ours, and of each peer or variant a function that makes its `Side`, by name:

    def loss_comparisons(options: argparse.Namespace) -> Iterator[Comparison]:
        ours = Side(run)
        yield Comparison("loss 512 x 2", ours, {"effdet": lambda: effdet_side(...)})

    Side(
        run,                         # () -> Any: one call; only this is timed
        check,                       # () -> None: raises AssertionError where its answer is not ours (of peers)
        {"saved MiB": 812.0},        # figures beside the time, of the same names on all sides
    )

Sides are made when their comparison is next, checked, and then measured in turn. Peers are imported inside of these
functions, never at the top of a file: an ImportError of a peer skips its row, one of a whole part skips the part, and
nothing else is hidden. `items` divides the time where a call makes several (samples, steps). `seconds` says how time
is taken: `cpu_seconds` (this process), `child_seconds` (finished child processes), or `cuda_seconds` (events).

An option of several values (nargs="+") chooses rows, one after the other, and the names of the rows hold the value; all
other options, with the name, tell a row from others when runs are held against each other.

The driver adds --only, --rounds, --json and --against, and prints the file's docstring as help. It finds a command in
its table `COMMANDS`, and imports a file when it is asked for.
"""
