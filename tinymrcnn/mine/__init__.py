"""Functions that a learner wrote in the lessons, in the place of the package's: `tinymrcnn train --mine FILE`.

table.py is the list of them, cases.py holds what each is tried on, replacing.py checks and replaces. No other room of
the package knows of this one. lessons/your_own_detector.md explains it to its readers.
"""

from tinymrcnn.mine.replacing import in_place, read
from tinymrcnn.mine.table import REPLACEABLE

__all__ = ["REPLACEABLE", "in_place", "read"]
