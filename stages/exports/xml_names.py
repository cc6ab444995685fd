"""Class names in XML files."""

import re

NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, section 2.2


def xml_name(name: str) -> str:
    """Replace characters that XML cannot hold, which are control characters, by U+FFFD."""
    return NOT_IN_XML.sub("\ufffd", name)
