"""What the objects of a dataset are and what becomes of them: shared by the components that prepare data."""

from millrace.data.options.images import ImageData
from millrace.data.options.tables import TabularData
from millrace.data.options.texts import TextData

__all__ = ["ImageData", "TabularData", "TextData"]
