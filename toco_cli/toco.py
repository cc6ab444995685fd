"""`import toco`: another name of `toco_cli`. The build puts this file beside the packages (see pyproject.toml)."""

import sys

import toco_cli

sys.modules[__name__] = toco_cli
