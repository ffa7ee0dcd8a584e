"""Folders as source and target.

A target folder is published like a Hub repository: finished shards wait in `.hubconv/<plan id>`,
every file gets its name by an atomic rename, and the manifest comes last.
"""

from hubconv.folder.source import FolderSource
from hubconv.folder.staging import FolderStaging
from hubconv.folder.target import FolderTarget
from hubconv.folder.upkeep import FolderKeeper

__all__ = ["FolderKeeper", "FolderSource", "FolderStaging", "FolderTarget"]
