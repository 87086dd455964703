"""Other people's data sets: one reader a file, and each makes COCO of what it finds. open_source finds out which one
fits.
"""

from tinymrcnn.data.formats.collect import Split
from tinymrcnn.data.formats.convert import convert
from tinymrcnn.data.formats.source import FORMATS, Source, open_source, open_split

__all__ = ["FORMATS", "Source", "Split", "convert", "open_source", "open_split"]
