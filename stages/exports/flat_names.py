"""File names for formats that keep all images in one folder."""

import hashlib

LONGEST = 240  # bytes; file systems take 255, with the extension


def flat_name(image_id: str) -> str:
    """Turn an image id into a unique file name without folders: 'line 1/a.b' becomes 'line%201%2Fa%2Eb'.

    Letters and digits of any script, '-' and '_' stay. Every other character is percent-encoded, as in a URL: '%' and
    two hexadecimal digits for each byte of UTF-8. Spaces are encoded because readers of name lists stop at a space,
    dots because readers take the part after a dot for an extension. `urllib.parse.unquote` returns the id.

    A name that no file system takes is cut, and ends with a part of its hash so that it stays unique.
    """
    name = "".join(
        character if character.isalnum() or character in "-_" else _percent_encoded(character) for character in image_id
    )
    if len(name.encode()) <= LONGEST:
        return name
    digest = hashlib.sha256(image_id.encode()).hexdigest()[:16]
    return f"{name.encode()[: LONGEST - 1 - len(digest)].decode(errors='ignore')}-{digest}"


def _percent_encoded(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode())
