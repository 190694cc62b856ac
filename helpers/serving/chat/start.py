"""Start the chat page: `make chat`, beside `make serve`; or `python -m helpers.serving.chat.start -p chat_port 8600`.

Chainlit lives in an environment of its own (.venv-chat) and talks to the model server over HTTP. Settings are those of
config/serving.yaml; this module, in the course's environment, checks them and hands them over.
"""

import argparse
import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

from helpers.course.command_line import add_settings, settings_of
from helpers.course.errors import InputError
from helpers.course.paths import REPOSITORY
from helpers.serving.settings import API_KEY, ServingSettings, is_local

PASSWORD = "COURSE_CHAT_PASSWORD"
CHAINLIT = REPOSITORY / ".venv-chat" / ("Scripts/chainlit.exe" if os.name == "nt" else "bin/chainlit")
PAGE = Path(__file__).with_name("page.py")
WELCOME = """# 한국어 미세 조정 과정

직접 학습한 모델과 이야기해 보세요. 모델, 온도, 시스템 프롬프트는 입력창의 설정에서 고를 수 있습니다.
"""


def chat_command(settings: ServingSettings) -> tuple[list[str], dict[str, str]]:
    """The command line and the environment of the page; writes Chainlit's own settings beside the history.

    Raises :class:`InputError` where Chainlit is not installed, or where others could reach a page without a password.
    """
    if not CHAINLIT.exists():
        raise InputError("Chainlit's environment is not there", file=".venv-chat", hint="run `make chat-env`")
    if not is_local(settings.chat_host) and not os.environ.get(PASSWORD):
        raise InputError(
            "whoever reaches this address could read all conversations: a page that others reach needs a password",
            place="chat_host",
            given=settings.chat_host,
            allowed="127.0.0.1, ::1 or localhost without a password",
            hint=f"set the environment variable {PASSWORD}",
        )
    root = settings.chat_history.parent
    (root / ".chainlit").mkdir(parents=True, exist_ok=True)
    (root / ".chainlit/config.toml").write_text(chainlit_config(settings), encoding="utf-8")
    (root / "chainlit.md").write_text(WELCOME, encoding="utf-8")
    server = f"[{settings.host}]" if ":" in settings.host else settings.host
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "CHAINLIT_APP_ROOT": str(root),
        "CHAINLIT_AUTH_SECRET": secrets.token_hex(32),
        "COURSE_SERVER_URL": f"http://{'127.0.0.1' if settings.host == '0.0.0.0' else server}:{settings.port}",
        "COURSE_CHAT_HISTORY": str(settings.chat_history),
        "COURSE_DEFAULT_TOKENS": str(settings.default_tokens),
        API_KEY: settings.api_key or "",
    }
    where = ["--host", settings.chat_host, "--port", str(settings.chat_port)]
    return [str(CHAINLIT), "run", str(PAGE), "--headless", *where], environment


def chainlit_config(settings: ServingSettings) -> str:
    """Chainlit's config.toml: Korean, no uploads, no HTML from the model, requests from this page only."""
    origins = [f"http://{host}:{settings.chat_port}" for host in sorted({settings.chat_host, "localhost", "127.0.0.1"})]
    return f"""[project]
allow_origins = {json.dumps(origins)}

[features]
unsafe_allow_html = false
edit_message = false

[features.spontaneous_file_upload]
enabled = false

[UI]
name = "한국어 모델"
language = "ko"
default_theme = "light"
cot = "hidden"
confirm_new_chat = false
description = "한국어 미세 조정 과정의 대화 페이지"

[meta]
generated_by = "2.12.0"
"""


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and run the page until it is stopped."""
    parser = argparse.ArgumentParser(prog="python -m helpers.serving.chat.start", description=__doc__.split("\n")[0])
    add_settings(parser, ServingSettings)
    options = parser.parse_args(arguments)
    try:
        command, environment = chat_command(settings_of(ServingSettings, options))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    if os.name != "nt":
        os.execve(command[0], command, environment)  # signals then reach Chainlit itself
    return subprocess.call(command, env=environment)


if __name__ == "__main__":
    sys.exit(main())
