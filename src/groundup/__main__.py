"""`python -m groundup` is `groundup`."""

from groundup.cli import main

if __name__ == "__main__":
    main()
