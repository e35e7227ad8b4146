"""`python -m captioner` is the `captioner` command."""

from captioner.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
