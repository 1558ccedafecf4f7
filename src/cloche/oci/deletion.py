"""`delete`: apart from `create`, whose modules would cost it more time than all it does."""

from cloche.oci.errors import OciError
from cloche.oci.records import CREATED, CREATING, STOPPED, Record


def delete(record: Record, *, is_forced: bool) -> None:
    """Forget a container that has ended, or end it.  Raises OciError."""
    status = record.status()
    if status not in (STOPPED, CREATED, CREATING) and not is_forced:
        raise OciError(f"cannot delete container {record.ident} that is not stopped: {status}")
    record.end()
    remove_groups(record)
    try:
        if record.hooks:
            from cloche.oci.hooks import run_hooks

            run_hooks(record.hooks, "poststop", record.state(STOPPED))
    finally:
        record.remove()


def remove_groups(record: Record) -> None:
    """Remove its control groups, when its processes are gone."""
    if record.unit:
        from cloche.oci import systemd

        systemd.stop(record)
    if record.groups:
        from cloche.oci import cgroups

        cgroups.remove(record.groups)
