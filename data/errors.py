"""Errors that the user can fix. Each message is one line: what happened, where, and what to do."""


class UserError(Exception):
    """Base of all errors that a user can cause and fix."""


class DataError(UserError, ValueError):
    """The user's data set cannot be used as it is."""


class SettingsError(UserError, ValueError):
    """An option or argument has a value that cannot work."""


class ArtifactError(UserError):
    """A file or folder of a run is not in the state that a stage needs."""
