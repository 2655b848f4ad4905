"""What may be wanted of directories, people and their rights."""

from backend.directory.commands.directories import AddDirectory, EditDirectory, RemoveDirectory
from backend.directory.commands.people import CreateUser, EditGroup, EditUser, ImportPrincipal, RemoveUser, SignOutUser
from backend.directory.commands.permissions import GrantRole, TakeRole

__all__ = [
    "AddDirectory", "CreateUser", "EditDirectory", "EditGroup", "EditUser", "GrantRole", "ImportPrincipal", "RemoveDirectory",
    "RemoveUser", "SignOutUser", "TakeRole",
]
