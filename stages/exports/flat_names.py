"""Names without folders, for formats that keep all images in one."""


def flat_name(image_id: str) -> str:
    """Turn an image id into a file name that no other id has: 'line 1/a.b' is 'line%201%2Fa%2Eb'.

    Letters and digits of any script, '-' and '_' stay; of everything else each byte of UTF-8 becomes '%' and two
    hexadecimal digits, as in web addresses. Blanks and dots are among that since lists of names are read up to a
    blank, and what follows a dot is taken for an extension. `urllib.parse.unquote` gives the id back.
    """
    return "".join(character if _stays(character) else _escape(character) for character in image_id)


def _stays(character: str) -> bool:
    return character.isalnum() or character in "-_"


def _escape(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode())
