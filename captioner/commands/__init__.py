"""The commands of `captioner`, one file each: `declare` adds arguments, `run` does the work.

    parser.py     how command lines are read
    model.py      the options that all commands with a model share
    decoding.py   the flags of `DecodingOptions`
    terminal.py   what goes to stderr

A command imports what it needs when it runs, so that help takes a blink. A new one is a file here,
and a line in `captioner.cli`.
"""
