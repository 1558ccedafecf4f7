"""Descriptors of the host that somebody waits for."""

from mypy_extensions import trait

from cloche.platform.interface import Platform


@trait
class FdWatcher:
    """Somebody who waits for a host descriptor."""

    def fd_ready(self, token: int, events: int) -> None:
        """The descriptor that was watched under `token` has these epoll events."""
        raise NotImplementedError


class HostFds:
    """Who waits for which descriptor.  A token is never given twice: an event that is under way finds nobody."""

    def __init__(self, platform: Platform) -> None:
        self.platform: Platform = platform
        self.watchers: dict[int, FdWatcher] = {}  # by token
        self.next_token: int = 1

    def watch(self, fd: int, events: int, watcher: FdWatcher) -> int:
        """Tell `watcher` when the host descriptor is ready; the token for `unwatch`."""
        token = self.next_token
        self.next_token += 1
        self.watchers[token] = watcher
        self.platform.add_fd(fd, token, events)
        return token

    def rewatch(self, fd: int, token: int, events: int) -> None:
        """Change the events of interest."""
        self.platform.modify_fd(fd, token, events)

    def unwatch(self, fd: int, token: int) -> None:
        """Stop watching."""
        if self.watchers.pop(token, None) is not None:
            self.platform.remove_fd(fd)
