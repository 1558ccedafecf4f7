"""Host descriptors that are watched by the event loop."""

from mypy_extensions import trait

from cloche.platform.interface import Platform


@trait
class FdWatcher:
    """Watches a host descriptor."""

    def fd_ready(self, token: int, events: int) -> None:
        """The descriptor that was watched under `token` has these epoll events."""
        raise NotImplementedError


class HostFds:
    """The watchers of host descriptors. A token is never used again, so an event that arrives late finds no watcher."""

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
