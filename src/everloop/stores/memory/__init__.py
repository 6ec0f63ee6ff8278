"""What an engine without a data folder remembers: a bounded journal and a catalog, gone with the process.

journal    the `Journal` port
records    its predictions, by id and by lane
examples   its labelled examples, by model and by the row that was answered
catalog    the `Catalog` port
answers    the `AnswerStore` port
"""

from everloop.stores.memory.answers import MemoryAnswers
from everloop.stores.memory.catalog import MemoryCatalog
from everloop.stores.memory.journal import MemoryJournal

__all__ = ["MemoryAnswers", "MemoryCatalog", "MemoryJournal"]
