"""The manual pages of both daemons and their commands say the same, in both
directions; and what the pages for operators tell them to do leads where they say."""

import contextlib
import functools
import io
import re
import subprocess

import pytest
import sessions
from dispatchers import Daemon, Dispatcher, host_entry
from harp import actions, config
from harp.cli.admin import command as admin
from harp.daemon import command as daemon

from conftest import TOP

COMMON = {"-h", "--help", "--json"}
"""Options that a page tells of once, for all actions."""
START = {"-p", "--pidfile", "-l", "--logging", "--syslog"}
"""Those that the actions hand on to what they start."""


def section(page: str, title: str) -> list[str]:
    """The lines of a page below a title."""
    text = (TOP / "doc" / page).read_text(encoding="utf-8")
    parts = re.split(r"(?m)^(.+)\n[-=]{3,}\n", text)
    return parts[parts.index(title) + 1].splitlines()


def terms(lines: list[str], indent: int = 0) -> list[str]:
    """What is explained there: each literal of the heads of its entries."""
    head = re.compile(rf"{' ' * indent}``[^`]+``(, ``[^`]+``)*")
    return [
        term
        for line in lines
        if head.fullmatch(line)
        for term in re.findall("``([^`]+)``", line)
    ]


def name_of(term: str) -> str:
    return re.match(r"[\w-]+", term)[0]


def options_in(found: list[str]) -> set[str]:
    return {name_of(term) for term in found if term.startswith("-")}


@functools.cache
def help_of(main, *action: str) -> str:
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        main([*action, "--help"])
    return told.getvalue()


def options_of(main, *action: str) -> set[str]:
    """The options that a command has, as its help tells them."""
    _, _, listed = help_of(main, *action).rpartition("\noptions:\n")
    heads = re.findall(r"(?m)^  (-.*?)(?:   ?\S.*)?$", listed)
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", "\n".join(heads)))


def actions_on_page() -> dict[str, set[str]]:
    """The actions that harpcallerd(8) tells of, and the options of each."""
    found: dict[str, set[str]] = {}
    for kind in ("start and stop", "jobs and queues", "hosts and trust", "upkeep"):
        for line in section("harpcallerd.rst", f"Actions: {kind}"):
            for term in terms([line]):
                found[name_of(term)] = current = set()
            for term in terms([line], indent=4):
                current |= options_in([term])
    for action in ("restart", "try-restart"):
        found[action] |= found["stop"]  # as the page says in words
    return found


def test_harpd_page_has_every_action_and_no_other():
    listed = {name_of(term) for term in terms(section("harpd.rst", "Actions"))}
    assert listed == set(actions.ACTIONS)


def test_action_that_harpd_does_not_know_is_answered_with_those_it_knows(capsys):
    with pytest.raises(SystemExit) as exit:
        daemon.main(["frobnicate"])
    assert exit.value.code == 2
    told = capsys.readouterr().err
    assert set(re.findall(r"'([a-z-]+)'", told)) == {"frobnicate", *actions.ACTIONS}
    assert "None" not in told


@pytest.mark.parametrize(
    "title, action",
    [
        ("Options", ()),
        ("harpd setup", ("setup",)),
        ("harpd passwd", ("passwd",)),
        ("harpd call", ("call",)),
    ],
)
def test_harpd_page_has_every_option_and_no_other(title, action):
    listed = options_in(terms(section("harpd.rst", title)))
    assert listed - COMMON == options_of(daemon.main, *action) - COMMON
    assert listed - COMMON


def test_harpcallerd_page_has_every_action_and_no_other():
    assert set(actions_on_page()) == set(
        re.findall(r"(?m)^    ([a-z][a-z-]+)(?: |$)", help_of(admin.main))
    )


def test_harpcallerd_page_has_every_option_and_no_other():
    listed = options_in(terms(section("harpcallerd.rst", "Options")))
    assert listed - COMMON == options_of(admin.main) - COMMON


@pytest.mark.parametrize("action", sorted(actions_on_page()))
def test_harpcallerd_page_has_every_option_of_an_action_and_no_other(action):
    known = options_of(admin.main, action) - COMMON
    if START <= known:
        known -= START
    assert actions_on_page()[action] == known


@pytest.mark.parametrize("page", ["harpd.rst", "harpcallerd.rst"])
def test_exit_statuses_of_the_page_are_those_of_the_actions(page):
    table = "\n".join(section(page, "Exit status"))
    listed = {int(number) for number in re.findall(r"(?m)^(\d+)  ", table)}
    assert {
        actions.OK,
        actions.FAILED,
        actions.STOPPED,
        actions.NO_PERMISSION,
        actions.NOT_CONFIGURED,
        actions.NOT_RUNNING,
    } <= listed


# --- what operators are told --------------------------------------------------------


@pytest.mark.parametrize(
    "page, table",
    [
        ("doc/operating.rst", config.DispatcherConfig),
        ("doc/security.rst", config.DaemonConfig),
    ],
)
def test_configuration_of_the_page_can_be_used(page, table, tmp_path):
    found = [block.text for block in sessions.blocks(page) if block.kind == "toml"]
    assert found
    for text in found:
        (tmp_path / "config.toml").write_text(text)
        assert config.load(str(tmp_path / "config.toml"), table) != table()


@pytest.fixture
def make_dispatcher(request, tmp_path, certificate, server_context):
    """``make_dispatcher(name)`` makes one that isn't started, with a host whose daemon
    is always the same."""
    served = Daemon(server_context)
    request.addfinalizer(served.stop)

    def make(name):
        entry = host_entry(served.address, cert_sha256=certificate.sha256)
        dispatcher = Dispatcher(tmp_path / name, [entry])
        request.addfinalizer(dispatcher.stop)
        return dispatcher

    return make


def test_figures_that_operators_are_to_look_at_exist(make_dispatcher):
    page = (TOP / "doc" / "operating.rst").read_text(encoding="utf-8")
    dispatcher = make_dispatcher("dispatcher")
    dispatcher.start()
    told = dispatcher.command("metrics").stdout
    named = set(re.findall(r"\bharpcaller_[a-z_]+", page))
    assert len(named) > 5
    assert named <= set(re.findall(r"# TYPE (\S+)", told))


def restore(backup, dispatcher):
    """Put a backup in the place of a dispatcher's jobs, as the page says."""
    dispatcher.jobs.mkdir(mode=0o700)
    subprocess.run(["tar", "-xzf", backup, "-C", dispatcher.jobs], check=True)
    checked = dispatcher.command("check-log", dispatcher.jobs)
    assert checked.returncode == 0, checked.stdout
    return sorted(
        path.stem
        for path in (dispatcher.jobs / "active").iterdir()
        if path.read_bytes().count(b"\n") == 1
    )


def test_backup_that_is_put_back_has_all_jobs_and_tells_which_had_not_started(
    make_dispatcher, tmp_path, wait_for
):
    first, second = make_dispatcher("first"), make_dispatcher("second")
    first.start()
    queue = {"name": {}, "concurrency": 1}
    ended = first.call("echo", 1)
    assert first.result(ended) == {"result": [1]}
    running = first.call("wait", queue=queue)
    queued = first.call("wait", queue=queue)
    wait_for(lambda: first.state(running) == "running")
    wait_for(lambda: b"\n{\"start\"" in first.path(running).read_bytes())
    backup = tmp_path / "jobs.tar.gz"
    made = subprocess.run(
        ["tar", "-czf", backup, "-C", first.jobs]
        + ["active", "done", "corrupt", "format"]
    )
    assert made.returncode in (0, 1)
    first.cancel_all()
    assert restore(backup, second) == [queued]
    (second.jobs / "active" / f"{queued}.jsonl").unlink()
    second.start()
    assert second.result(ended) == {"result": [1]}
    assert second.result(running)["error"]["type"] == "missing_result"
    assert second.result(queued)["error"]["type"] == "invalid_jobid"
