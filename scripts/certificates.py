"""``marquee certificates``, for those who call scripts."""

from marquee.commands.main import run_verb

if __name__ == "__main__":
    run_verb("certificates")
