"""The verbs of the ``marquee`` command, one file each: arguments in, library calls out.

A file imports at its top only what parsing its arguments takes; what computes is imported after that, so that
``--help`` and a mistyped option are answered at once.
"""
