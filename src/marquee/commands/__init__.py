"""The verbs of the ``marquee`` command, one file each: arguments in, library calls out.

A module imports at its top only what parsing its arguments needs; what computes is imported after that, so that
``--help`` and mistyped options are answered at once.
"""
