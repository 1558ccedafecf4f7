"""An endpoint that E2B's own packages speak to, in front of sandboxes of this machine: `cloche serve`.

What is spoken is listed, with the versions that were tried, in docs/sdk/serve.md.  Sources: the requests of the
packages `e2b` and `e2b-code-interpreter` as they send them; the Connect protocol's specification (unary calls and
streams of JSON messages).
"""

from typing import Final

# The version of E2B's daemon whose features are offered: clients ask for no later ones.
ENVD_VERSION: Final = "0.5.7"
ENVD_PORT: Final = 49983
CODE_PORT: Final = 49999
