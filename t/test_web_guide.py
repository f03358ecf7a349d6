"""The code of doc/web.rst is run, with stand-ins for what Django gives."""

import contextlib
import functools
import itertools
import re
import sys
import textwrap
import time
import types

import harp
import pytest
from harp import settings, testing

from conftest import TOP

GUIDE = (TOP / "doc" / "web.rst").read_text(encoding="utf-8")

PROCEDURES = """
import time
from harp import procedure, streaming_procedure

@streaming_procedure
def restart_service(name):
    yield f"stopping {name}"
    yield f"starting {name}"
    if name == "hanging":
        time.sleep(600)
    if name == "broken":
        raise ValueError("it does not start")
    return {"restarted": name}
"""

SECONDS = 30


def block(name: str) -> str:
    (found,) = re.findall(
        rf"^\.\. code-block:: python\n   :name: {name}\n\n((?:   .*\n|\n)+)",
        GUIDE,
        re.M,
    )
    return textwrap.dedent(found)


# --- what Django gives ---------------------------------------------------------------


class Transaction:
    """``django.db.transaction``."""

    def __init__(self):
        self._after = []
        self.fails = False

    @contextlib.contextmanager
    def atomic(self):
        yield
        after, self._after = self._after, []
        if self.fails:
            raise RuntimeError("rolled back")
        for function in after:
            function()

    def on_commit(self, function):
        self._after.append(function)


class User:
    def get_username(self):
        return "alice"


class Row:
    """A row of the table ``Restart``."""

    rows: dict = {}
    numbers = itertools.count(1)

    def __init__(self, host, service, by):
        self.host, self.service, self.by = host, service, by
        self.job_id = ""

    def save(self, update_fields=()):
        self.rows[self.pk] = self

    @classmethod
    def create(cls, **columns):
        row = cls(**columns)
        row.pk = next(cls.numbers)
        row.save()
        return row


Row.objects = Row


class NotFound(Exception):
    """Raised for a 404 page."""


class JsonResponse:
    def __init__(self, data, status=200):
        self.data, self.status_code = data, status


class Request:
    def __init__(self, method, **fields):
        self.method = method
        self.GET = self.POST = fields
        self.user = User()


def get_object_or_404(model, pk):
    if pk not in model.rows:
        raise NotFound
    return model.rows[pk]


def needing(method):
    def decorate(view):
        @functools.wraps(view)
        def checked(request, *arguments, **named):
            assert request.method == method
            return view(request, *arguments, **named)

        return checked

    return decorate


def django_modules(transaction):
    return {
        "django": {},
        "django.db": {"transaction": transaction},
        "django.http": {"JsonResponse": JsonResponse},
        "django.shortcuts": {
            "get_object_or_404": get_object_or_404,
            "redirect": lambda name, pk: (name, pk),
        },
        "django.contrib": {},
        "django.contrib.auth": {},
        "django.contrib.auth.decorators": {"login_required": lambda view: view},
        "django.views": {},
        "django.views.decorators": {},
        "django.views.decorators.http": {
            "require_GET": needing("GET"),
            "require_POST": needing("POST"),
        },
    }


# --- the guide's application ---------------------------------------------------------


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    directory = tmp_path_factory.mktemp("web-guide")
    file = directory / "procedures.py"
    file.write_text(PROCEDURES)
    with testing.Servers(file, directory / "servers", hosts=["web01"]) as servers:
        yield servers


@pytest.fixture
def application(servers, monkeypatch):
    """The guide's modules ``views`` and ``remote``."""
    address = "harp://%s:%d" % servers.dispatcher_address
    monkeypatch.setenv(settings.URL_VARIABLE, address)
    Row.rows = {}
    modules = django_modules(Transaction())
    modules |= {"site_": {"__path__": []}, "site_.models": {"Restart": Row}}
    modules |= {"site_.remote": {}, "site_.views": {}}
    made = {}
    for name, content in modules.items():
        made[name] = types.ModuleType(name)
        made[name].__package__ = name.partition(".")[0]
        vars(made[name]).update(content)
        monkeypatch.setitem(sys.modules, name, made[name])
    made["site_"].remote = made["site_.remote"]
    exec(block("remote"), vars(made["site_.remote"]))
    exec(block("views"), vars(made["site_.views"]))
    yield made["site_.views"], made["site_.remote"]
    made["site_.remote"].rpc.close()


def follow(views, pk):
    """Ask as the page's script does, and return all packets and the last answer."""
    packets, since = [], 0
    deadline = time.monotonic() + SECONDS
    while True:
        answer = views.restart_progress(Request("GET", since=str(since)), pk=pk)
        packets += answer.data.get("packets", [])
        since = answer.data.get("next", since)
        if answer.data["state"] not in ("running", "not submitted"):
            return packets, answer.data
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_call_is_submitted_after_the_commit_and_its_page_shows_how_far_it_is(
    application,
):
    views, remote = application
    name, pk = views.restart(Request("POST", service="nginx"), host="web01")
    assert (name, [pk]) == ("restart", list(Row.rows))
    packets, last = follow(views, pk)
    assert packets == ["stopping nginx", "starting nginx"]
    assert last["state"] == "succeeded" and last["result"] == {"restarted": "nginx"}
    status = remote.rpc.job(Row.rows[pk].job_id).status()
    assert (status["on_behalf_of"], status["group"]) == ("alice", f"restart-{pk}")


def test_nothing_is_called_if_the_transaction_is_rolled_back(application):
    views, remote = application
    views.transaction.fails = True
    with pytest.raises(RuntimeError):
        views.restart(Request("POST", service="nginx"), host="web01")
    [pk] = Row.rows
    assert list(remote.rpc.jobs(group=f"restart-{pk}")) == []


def test_call_whose_id_was_never_stored_is_found(application):
    views, remote = application
    _, pk = views.restart(Request("POST", service="nginx"), host="web01")
    Row.rows[pk].job_id = ""
    assert follow(views, pk)[1]["state"] == "succeeded"


def test_row_without_a_call_and_wrong_addresses_say_so(application):
    views, remote = application
    row = Row.create(host="web01", service="nginx", by=User())
    answer = views.restart_progress(Request("GET"), pk=row.pk)
    assert answer.data["state"] == "not submitted"
    answer = views.restart_progress(Request("GET", since="x"), pk=row.pk)
    assert answer.status_code == 400
    row.job_id = harp.jobid.make()
    answer = views.restart_progress(Request("GET"), pk=row.pk)
    assert (answer.status_code, answer.data["state"]) == (404, "unknown")
    with pytest.raises(NotFound):
        views.restart_progress(Request("GET"), pk=99)


def test_failures_say_whether_it_is_safe_to_repeat(application):
    views, remote = application
    _, raised = views.restart(Request("POST", service="broken"), host="web01")
    _, refused = views.restart(Request("POST", service="nginx"), host="nowhere")
    last = follow(views, raised)[1]
    assert last["state"] == "failed" and "it does not start" in last["reason"]
    assert last["safe_to_repeat"] is False
    assert follow(views, refused)[1]["safe_to_repeat"] is True


def test_call_can_be_cancelled_from_a_view(application):
    views, remote = application
    _, pk = views.restart(Request("POST", service="hanging"), host="web01")
    views.restart_cancel(Request("POST"), pk=pk)
    assert follow(views, pk)[1]["state"] == "cancelled"


def test_page_goes_on_when_the_dispatcher_is_back(application, make_servers, tmp_path):
    views, remote = application
    (tmp_path / "procedures.py").write_text(PROCEDURES)
    servers = make_servers(tmp_path / "procedures.py", hosts=["web01"])
    remote.rpc = servers.caller()
    _, pk = views.restart(Request("POST", service="nginx"), host="web01")
    follow(views, pk)
    servers.dispatcher.kill()
    answer = views.restart_progress(Request("GET"), pk=pk)
    assert answer.status_code == 503
    servers.start_dispatcher()
    assert follow(views, pk)[1]["state"] == "succeeded"


def test_progress_of_many_hosts_is_one_request(application):
    _, remote = application
    names: dict = {}
    exec(block("many"), names)
    group = remote.rpc.hosts(["web01", "nowhere"], at_a_time=5).restart_service("nginx")
    group.results(timeout=SECONDS)
    found = names["group_progress"](remote.rpc, group.id())
    assert found == {"web01": "result", "nowhere": "error"}
