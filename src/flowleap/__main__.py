"""`python -m flowleap` is `flowleap`."""

from flowleap.cli import main

if __name__ == "__main__":
    main()
