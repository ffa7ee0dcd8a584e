"""Profiles: what hubconv knows of a model family, as data.

A profile is one TOML file in this folder; `reader.py` turns it into a record and refuses what it
does not understand. To add a family, add a file; to read a new stored format, add a reader.
"""

from hubconv.profiles.reader import Profile, Recode, Role, choose_profile, load_profiles
from hubconv.profiles.stored_as import READERS, Reader, stored_weight

__all__ = [
    "READERS",
    "Profile",
    "Reader",
    "Recode",
    "Role",
    "choose_profile",
    "load_profiles",
    "stored_weight",
]
