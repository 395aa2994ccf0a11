"""What a site says when the protocol is not kept: a fixed code for the server, a sentence for its own log."""

from __future__ import annotations


class ProtocolError(Exception):
    """The server or a peer did not keep the protocol; this site goes no further.

    `code` is one of a fixed set of short words and may leave the site; the sentence must not.
    """

    def __init__(self, code: str, reason: str) -> None:
        """Keep the code; the reason becomes the exception's text."""
        self.code = code
        super().__init__(reason)
