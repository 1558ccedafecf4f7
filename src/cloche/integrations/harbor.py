"""Harbor (0.26 and its like): trials of agents in sandboxes, `--environment-import-path` or in a job's configuration

    environment:
      import_path: cloche.integrations.harbor:ClocheEnvironment

A task's `docker_image` is fetched as by `cloche run --image`; a Dockerfile is built by docker or podman, once for its
contents, and kept as an image of cloche's.  With the option `rootfs` a directory takes their place ("host": the system
directories of this machine).  The sandbox has the network that the task's policy names and no other, and its limits.
"""

import asyncio
import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from harbor.environments.base import BaseEnvironment, ExecResult
from harbor.environments.capabilities import EnvironmentCapabilities, EnvironmentResourceCapabilities
from harbor.environments.definition import (
    require_agent_environment_definition,
    should_use_prebuilt_docker_image,
)
from harbor.models.task.config import NetworkAllowlistEntryType, classify_network_allowlist_entry

from cloche.sdk import AsyncSandbox, InvalidArgument, Mount, SandboxError

ENGINES: Final = ("docker", "podman")
HOST: Final = "host"
MAX_OUTPUT: Final = 64 << 20
_CLOCHE: Final = (sys.executable, "-m", "cloche.cli.main")
_ALL_PORTS: Final = "1-65535"
_NAMES: Final = (NetworkAllowlistEntryType.HOSTNAME, NetworkAllowlistEntryType.WILDCARD_HOSTNAME)


async def _tool(*words: str) -> str:
    """Run a program of the host; what it says.  Raises SandboxError."""
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        last = err.decode(errors="replace").strip()[-2000:]
        raise SandboxError(f"{shlex.join(words)[:300]}: status {process.returncode}: {last}")
    return out.decode(errors="replace").strip()


class ClocheEnvironment(BaseEnvironment):
    """A sandbox for a trial; `run_options` are further options of `cloche run`, `root` is where records are."""

    def __init__(
        self,
        *args: Any,
        rootfs: str | None = None,
        run_options: list[str] | None = None,
        root: str = "",
        **given: Any,
    ) -> None:
        self.rootfs: str | None = rootfs
        self.run_options: list[str] = list(run_options or [])
        self.root: str = root
        self.sandbox: AsyncSandbox | None = None
        super().__init__(*args, **given)

    @staticmethod
    def type() -> str:
        return "cloche"

    @classmethod
    def resource_capabilities(cls) -> EnvironmentResourceCapabilities:
        return EnvironmentResourceCapabilities(cpu_limit=True, memory_limit=True, fractional_cpus=True)

    @property
    def capabilities(self) -> EnvironmentCapabilities:
        return EnvironmentCapabilities(
            mounted=True,
            disable_internet=True,
            network_allowlist=True,
            network_allowlist_hostnames=True,
            network_allowlist_wildcard_hostnames=True,
            network_allowlist_ipv4_addresses=True,
            network_allowlist_ipv6_addresses=True,
            network_allowlist_ipv4_cidrs=True,
            network_allowlist_ipv6_cidrs=True,
        )

    def _validate_definition(self) -> None:
        if self.rootfs is not None:
            if self.rootfs != HOST and not Path(self.rootfs).is_dir():
                raise FileNotFoundError(f"rootfs: {self.rootfs}: no such directory")
            return
        require_agent_environment_definition(
            self.environment_dir, docker_image=self.task_env_config.docker_image
        )
        if not self.task_env_config.docker_image and not (self.environment_dir / "Dockerfile").is_file():
            raise InvalidArgument(
                f"{self.environment_dir}: services of a compose file are not offered; give it a Dockerfile"
            )

    # -- its life ----------------------------------------------------------------------------------------
    async def start(self, force_build: bool) -> None:
        image = await self._image(force_build) if self.rootfs is None else None
        cpus, memory = self._effective_cpus, self._effective_memory_mb
        self.sandbox = await AsyncSandbox.create(
            image=image,
            rootfs=None if self.rootfs in (None, HOST) else self.rootfs,
            cpus=cpus,
            memory=f"{memory}m" if memory is not None else None,
            env=self._startup_env(),
            mounts=[self._mount(each) for each in self._host_mounts],
            options=[*self._network_words(), *self.run_options],
            metadata={"made-by": "harbor", "session": self.session_id},
            root=self.root,
        )
        folder = self.task_env_config.workdir
        if folder:
            await self.sandbox.files.make_dir(folder, user="root")
        await self.ensure_dirs(self._mount_targets(writable_only=True))
        await self._upload_environment_dir_after_start()

    async def stop(self, delete: bool) -> None:
        sandbox, self.sandbox = self.sandbox, None
        if sandbox is not None:
            await sandbox.kill()

    def _running(self) -> AsyncSandbox:
        if self.sandbox is None:
            raise SandboxError("the environment has not been started")
        return self.sandbox

    def _network_words(self) -> list[str]:
        """The task's policy, exactly.  A name that is allowed is allowed with all its ports."""
        if self._network_is_public:
            return ["--net-without-limits"]
        words = []
        for entry in self._network_policy.allowed_hosts if self._network_is_allowlist else []:
            if classify_network_allowlist_entry(entry) in _NAMES:
                words.append(f"--allow={entry}:{_ALL_PORTS}")
            else:
                address = f"[{entry}]" if ":" in entry else entry
                words += [f"--allow={address}:{_ALL_PORTS}{kind}" for kind in ("", "/udp")]
        return words

    @staticmethod
    def _mount(given: dict[str, Any]) -> Mount:
        if given.get("type") != "bind":
            raise InvalidArgument(
                f"mounts: {given.get('type')}: only directories and files of this machine (bind)"
            )
        return Mount(given["source"], given["target"], "ro" if given.get("read_only") else "rw")

    async def _image(self, force_build: bool) -> str:
        """The image that a trial starts from; built if necessary."""
        given = self.task_env_config.docker_image
        if given and should_use_prebuilt_docker_image(
            self.environment_dir, docker_image=given, force_build=force_build
        ):
            return str(given)
        name = f"localhost/harbor:{self.environment_id}"
        if not force_build and name in (await _tool(*_CLOCHE, "images", "--quiet")).split():
            return name
        engine = next((each for each in ENGINES if shutil.which(each)), None)
        if engine is None:
            raise SandboxError(
                f"{self.environment_dir}/Dockerfile: building it takes docker or podman, and there is neither; "
                "name an image that is built in the task's docker_image"
            )
        with tempfile.TemporaryDirectory() as folder:
            ident, archive = f"{folder}/id", f"{folder}/image.tar"
            await _tool(engine, "build", "--quiet", f"--iidfile={ident}", str(self.environment_dir.resolve()))
            built = Path(ident).read_text(encoding="ascii").strip()
            await _tool(engine, "save", "-o", archive, built)
            await _tool(*_CLOCHE, "load", "--quiet", "--name", name, "-i", archive)
        return name

    # -- commands and files ------------------------------------------------------------------------------
    async def exec(
        self,
        command: str,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        timeout_sec: int | None = None,
        user: str | int | None = None,
    ) -> ExecResult:
        emit = self._output_callback()

        def to(stream: str) -> Any:
            return None if emit is None else lambda text: emit(text, stream)

        result = await self._running().commands.run(
            command,
            cwd=cwd or self.task_env_config.workdir or None,
            env=self._merge_env(env) or {},
            timeout=timeout_sec,
            user=self._resolve_user(user),
            max_output=MAX_OUTPUT,
            on_stdout=to("stdout"),
            on_stderr=to("stderr"),
        )
        if result.timed_out:
            raise RuntimeError(f"Command timed out after {timeout_sec} seconds")
        return ExecResult(
            stdout=result.stdout, stderr=result.stderr + result.error, return_code=result.exit_code
        )

    async def upload_file(self, source_path: Path | str, target_path: str) -> None:
        await self._upload(source_path, target_path)

    async def upload_dir(self, source_dir: Path | str, target_dir: str) -> None:
        await self._running().files.make_dir(target_dir, user="root")
        await self._upload(source_dir, target_dir)

    async def _upload(self, source: Path | str, target: str) -> None:
        await self._running().files.make_dir(os.path.dirname(target.rstrip("/")) or "/", user="root")
        for line in await self._running().files.upload(source, target, user="root"):
            self.logger.warning("not uploaded: %s", line)

    async def download_file(self, source_path: str, target_path: Path | str) -> None:
        await self._download(source_path, target_path)

    async def download_dir(self, source_dir: str, target_dir: Path | str) -> None:
        await self._download(source_dir, target_dir)
        # A reader of the results must not be led to files of the host.
        top = Path(target_dir).resolve()
        for folder, folders, files in os.walk(top):
            for name in [*folders, *files]:
                path = Path(folder, name)
                if path.is_symlink() and not _stays(path, top):
                    self.logger.warning("not downloaded: %s: a link that leads outside", path)
                    path.unlink()

    async def _download(self, source: str, target: Path | str) -> None:
        for line in await self._running().files.download(source, target, user="root"):
            self.logger.warning("not downloaded: %s", line)

    async def attach(self) -> None:
        """A shell inside, in place of this program."""
        words = [*_CLOCHE, *(["--root", self.root] if self.root else [])]
        os.execv(words[0], [*words, "exec", "-it", self._running().name, "--", "sh"])


def _stays(link: Path, top: Path) -> bool:
    try:
        return link.resolve().is_relative_to(top)
    except (OSError, RuntimeError):
        return False  # round and round
