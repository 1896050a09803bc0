"""Temporal's development server by the SDK's own download, where no `temporal` program is installed.

`python -m nightmill.cli.devserver` takes the options of `temporal server start-dev` that the stack uses.
"""

from __future__ import annotations

import argparse
import asyncio
import signal

from nightmill.cli.ending import finish


async def serve(asked: argparse.Namespace) -> None:
    """Download the server if need be, and run it until SIGTERM or SIGINT."""
    from temporalio.testing import WorkflowEnvironment

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    extra = [part for value in asked.dynamic_config_value for part in ("--dynamic-config-value", value)]
    if asked.ui_codec_endpoint:
        extra += ["--ui-codec-endpoint", asked.ui_codec_endpoint]
    environment = await WorkflowEnvironment.start_local(
        ip=asked.ip,
        port=asked.port,
        ui=True,
        ui_port=asked.ui_port,
        dev_server_database_filename=asked.db_filename,
        dev_server_log_level=asked.log_level,
        dev_server_extra_args=extra,
        dev_server_existing_path=asked.existing,
    )
    try:
        await stop.wait()
    finally:
        await environment.shutdown()


def main() -> None:
    """Run the server, and exit with 0 after a signal."""
    parser = argparse.ArgumentParser(prog="python -m nightmill.cli.devserver")
    parser.add_argument("--ip", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7233)
    parser.add_argument("--ui-port", type=int, default=8233)
    parser.add_argument("--log-level", default="warn")
    parser.add_argument("--db-filename")
    parser.add_argument("--dynamic-config-value", action="append", default=[])
    parser.add_argument("--ui-codec-endpoint")
    parser.add_argument("--existing", help="a program to use in place of a download, for tests")
    asyncio.run(serve(parser.parse_args()))
    finish(0)


if __name__ == "__main__":
    main()
