"""How much memory this process may still take: what the machine has free, within the limits that it was given."""

from __future__ import annotations

from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def free_memory() -> int:
    """Bytes: of the machine, of the control groups around the process (containers, services), and of `ulimit -v`."""
    import psutil

    return max(0, min(psutil.virtual_memory().available, *_of_control_groups(), *_of_address_space()))


def _of_control_groups() -> list[int]:
    """What is left in each group around this process that has a limit, files in memory not counted."""
    try:
        own = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    free: list[int] = []
    for line in own:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            names = ("memory.max", "memory.current", "inactive_file")
            top = _CGROUPS
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            top = _CGROUPS / "memory"
        else:
            continue
        folder = top / path.lstrip("/")
        # A container may see itself as the top, whatever its path is outside.
        for group in {*(each for each in (folder, *folder.parents) if each.is_relative_to(top)), top}:
            left = _left(group, *names)
            if left is not None:
                free.append(left)
    return free


def _left(group: Path, limit: str, usage: str, cache: str) -> int | None:
    try:
        most, taken = int((group / limit).read_text()), int((group / usage).read_text())
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return most - taken + int(statistics.get(cache, 0))
    except (OSError, ValueError):  # no such group, or no limit, which reads as `max`
        return None


def _of_address_space() -> list[int]:
    try:
        import resource
    except ImportError:  # Windows
        return []
    import psutil

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return [] if limit == resource.RLIM_INFINITY else [limit - psutil.Process().memory_info().vms]
