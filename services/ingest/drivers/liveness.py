"""Whether a connection on which requests go unanswered is still good.

A pulled cable says nothing: only unanswered requests show it. But on a line with several devices a dead one must not
tear down its neighbours' connection, however often it is asked in a row.
"""

RENEW_AFTER_SILENT = 3
"""Requests in a row that nobody answered, after which the connection is doubted. A device that never answered on it
does not say anything about it while others did."""


class Liveness:
    """Who has answered on one connection, and who has stopped to."""

    def __init__(self) -> None:
        self._answered: set[str] = set()
        self._silent: set[str] = set()
        self._in_a_row = 0

    def answered(self, device: str) -> None:
        """Note an answer."""
        self._answered.add(device)
        self._silent.clear()
        self._in_a_row = 0

    def silent(self, device: str) -> bool:
        """Note an unanswered request, and return whether the connection should be made anew."""
        self._in_a_row += 1
        self._silent.add(device)
        if self._in_a_row < RENEW_AFTER_SILENT:
            return False
        lost = self._answered & self._silent
        return lost == self._answered or len(lost) >= RENEW_AFTER_SILENT
