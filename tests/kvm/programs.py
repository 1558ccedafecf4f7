"""Which programs run in the machine."""

from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
HOSTILE: Final = sorted((HERE / "hostile").glob("*.c"))
