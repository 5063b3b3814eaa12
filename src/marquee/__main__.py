"""``python -m marquee``, the same as ``marquee``."""

from marquee.commands.main import main

if __name__ == "__main__":
    main()
