"""Commands of toco as they are typed, for messages."""

import shlex


def as_command(*words: object) -> str:
    """Format a command of toco for a shell: `as_command("view", Path("my run"))` is "toco view 'my run'"."""
    return shlex.join(["toco", *map(str, words)])
